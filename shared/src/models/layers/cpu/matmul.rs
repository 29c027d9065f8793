//! Matrix products through the `gemm` crate, as checked views instead of pointers and strides.

use gemm::Parallelism;

/// A read-only matrix in a slice: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// `rows` x `cols` with rows `row_stride` apart.
    ///
    /// # Panics
    /// When the slice is too short, which is an error of the caller.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Mat<'a> {
        assert!(extent(rows, cols, row_stride) <= data.len(), "a matrix beyond its slice");
        Mat { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The first `rows` rows.
    ///
    /// # Panics
    /// When there are fewer, which is an error of the caller.
    pub fn rows(self, rows: usize) -> Mat<'a> {
        assert!(rows <= self.rows, "more rows than a matrix has");
        Mat { rows, ..self }
    }

    /// Transposed.
    pub fn t(self) -> Mat<'a> {
        Mat {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// A matrix to write, rows `row_stride` apart.
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// `rows` x `cols` with rows `row_stride` apart.
    ///
    /// # Panics
    /// When the slice is too short or rows overlap, which is an error of the caller.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> MatMut<'a> {
        assert!(extent(rows, cols, row_stride) <= data.len(), "a matrix beyond its slice");
        assert!(rows <= 1 || cols <= row_stride, "a matrix whose rows overlap");
        MatMut { data, rows, cols, row_stride }
    }
}

/// Elements from the first to the last.
fn extent(rows: usize, cols: usize, row_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + cols }
}

/// What is written over a matrix `out`: `keep * out + by * a b`; with `keep` 0 the old values are not read.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// The left factor.
    pub a: Mat<'a>,
    /// The right factor.
    pub b: Mat<'a>,
    /// What the old values are multiplied by.
    pub keep: f32,
    /// What the product is multiplied by.
    pub by: f32,
    /// On how many threads.
    pub parallelism: Parallelism,
}

impl<'a> Product<'a> {
    /// `a b` in place of what was there, on this thread.
    pub fn of(a: Mat<'a>, b: Mat<'a>) -> Self {
        Self { a, b, keep: 0.0, by: 1.0, parallelism: Parallelism::None }
    }

    /// Added to what was there.
    pub fn added(self) -> Self {
        Self { keep: 1.0, ..self }
    }

    /// On several threads.
    pub fn on(self, parallelism: Parallelism) -> Self {
        Self { parallelism, ..self }
    }
}

/// Writes a product.
///
/// # Panics
/// When the sizes differ, which is an error of the caller.
pub fn matmul(out: MatMut, product: Product) {
    let (a, b) = (product.a, product.b);
    assert!(a.rows == out.rows && b.cols == out.cols && a.cols == b.rows, "a product of unlike sizes");
    // SAFETY: the constructors checked that every (row, column) of the three matrices lies inside its slice, and
    // `out` is borrowed mutably, so it overlaps neither operand.
    unsafe {
        raw(out.data.as_mut_ptr(), out.row_stride, product);
    }
}

/// [`matmul`] onto a pointer, for tasks that write disjoint rows or columns of one buffer.
///
/// # Safety
/// `out[i * row_stride + j]` for i below `a.rows` and j below `b.cols` must be valid to write, not read or written
/// by any other thread meanwhile, and not part of `a` or `b`.
pub(super) unsafe fn raw(out: *mut f32, row_stride: usize, product: Product) {
    let Product { a, b, keep, by, parallelism } = product;
    assert_eq!(a.cols, b.rows, "a product of unlike sizes");
    // SAFETY: the constructors of `a` and `b` checked their extents; `out` is the caller's promise.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out,
            1,
            row_stride as isize,
            keep != 0.0,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            keep,
            by,
            false,
            false,
            false,
            parallelism,
        );
    }
}
