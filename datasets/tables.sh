# For replica.sh and questions.sh, which source it from the repository's root: the programs, the option --docs, and tables and
# figures of grids in docs/replica.md.
bin=${BIN:-target/release}
here=datasets/replica
writes_docs=false
if [ "${1:-}" = "--docs" ]; then writes_docs=true; shift; fi

# insert NAME FILE: the lines between <!-- NAME --> and the next <!-- end --> of docs/replica.md become the file's.
insert() {
    local draft
    draft=$(mktemp)
    awk -v name="<!-- $1 -->" -v file="$2" '
        $0 == name { print; while ((getline line < file) > 0) print line; inside = 1; next }
        $0 == "<!-- end -->" { inside = 0 }
        !inside { print }' docs/replica.md >"$draft"
    cat "$draft" >docs/replica.md
    rm "$draft"
}

# write_docs OUT GRID...: the table of each grid and those of its figures that the page shows, as `distill compare` left them in
# OUT/GRID.
write_docs() {
    local out=$1 grid figure
    shift
    mkdir -p docs/replica
    for grid in "$@"; do
        grep -q "^<!-- $grid -->$" docs/replica.md || { echo "docs/replica.md has no place for the table of $grid" >&2; continue; }
        insert "$grid" "$out/$grid/compare.md"
        for figure in accuracy gain use use_and_gain; do
            if grep -q "(replica/$grid-$figure.svg)" docs/replica.md; then
                cp "$out/$grid/$figure.svg" "docs/replica/$grid-$figure.svg"
            fi
        done
    done
}
