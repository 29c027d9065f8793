//! A failed unwrap is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

fn common(set: &[&str]) -> CommonArgs {
    CommonArgs { set: set.iter().map(|s| (*s).to_owned()).collect(), ..CommonArgs::default() }
}

fn message(set: &[&str]) -> String {
    resolve(&RunConfig::default(), &common(set), Table::new()).unwrap_err().to_string()
}

#[test]
fn flags_and_sets_override_the_file_and_the_file_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, "seed = 1\n[align]\nlr = 0.5\n[data]\nmax_length = 7\n").unwrap();
    let typed: Table = toml::from_str("seed = 2").unwrap();
    let mut args = common(&["align.lr=0.25", "device=cpu", "finetune.train=[\"vision\", \"head\"]"]);
    args.config = vec![file];
    let config: RunConfig = resolve(&RunConfig::default(), &args, typed).unwrap();
    assert_eq!((config.seed, config.align.lr, config.data.max_length), (2, 0.25, 7));
    assert_eq!(config.finetune.train, [PartName::Vision, PartName::Head]);
    assert_eq!((config.device.as_str(), config.distill.lr), ("cpu", 1e-4));
}

#[test]
fn what_is_written_is_what_is_read() {
    let config = RunConfig::default();
    let text = toml::to_string(&config).unwrap();
    assert_eq!(toml::from_str::<RunConfig>(&text).unwrap(), config);
}

#[test]
fn wrong_keys_are_named() {
    assert!(message(&["align.lrr=1"]).contains("`lrr`"));
    assert!(message(&["seed.x=1"]).contains("`seed` is a value"));
    assert!(message(&["seed=abc"]).contains("abc"));
    assert!(message(&["seed"]).contains("there is no `=`"));
}

#[test]
fn impossible_combinations_are_refused_with_a_hint() {
    let refused = |change: fn(&mut RunConfig)| {
        let mut config = RunConfig { student: "s".into(), out: "o".into(), ..RunConfig::default() };
        change(&mut config);
        config.validate().unwrap_err().to_string()
    };
    assert!(refused(|_| {}).contains("--cache CACHE"));
    assert!(refused(|c| c.stages = Some(vec![StageName::Finetune])).contains("--data SRC"));
    let with_cache = |change: fn(&mut RunConfig)| {
        let mut config = RunConfig {
            student: "s".into(),
            out: "o".into(),
            cache: Some("c".into()),
            ..RunConfig::default()
        };
        change(&mut config);
        config.validate().map_err(|error| error.to_string())
    };
    assert_eq!(with_cache(|_| {}), Ok(()));
    assert!(with_cache(|c| c.align.train = vec![PartName::Body]).unwrap_err().contains("align.train"));
    assert!(with_cache(|c| c.align.regularisation = None).unwrap_err().contains("align.regularisation"));
    let lora = |rank, alpha, linears: &[&str]| {
        let linears = linears.iter().map(|name| (*name).to_owned()).collect();
        Some(LoraConfig { rank, alpha, linears })
    };
    assert!(with_cache(|c| c.align.lora = Some(LoraConfig::default())).unwrap_err().contains("`align.lora`"));
    let with_lora = |lora: Option<LoraConfig>| {
        let mut stage = StageConfig { train: Vec::new(), lora, ..StageConfig::finetune() };
        let adapted = stage.validate(StageName::Finetune).map_err(|error| error.to_string());
        stage.train = vec![PartName::Body];
        (adapted, stage.validate(StageName::Finetune).map_err(|error| error.to_string()))
    };
    assert!(with_lora(None).0.unwrap_err().contains("names no part"));
    let (adapted, beside_body) = with_lora(Some(LoraConfig::default()));
    assert_eq!(adapted, Ok(()));
    assert!(beside_body.unwrap_err().contains("hint: leave `body` out of `finetune.train`"));
    assert!(with_lora(lora(0, 1.0, &["*"])).0.unwrap_err().contains("`finetune.lora.rank`"));
    assert!(with_lora(lora(1, 0.0, &["*"])).0.unwrap_err().contains("`finetune.lora.alpha`"));
    assert!(with_lora(lora(1, 1.0, &[])).0.unwrap_err().contains("`finetune.lora.linears`"));
    assert!(with_cache(|c| c.align.steps = Some(0)).unwrap_err().contains("hint: `--stages`"));
    assert!(with_cache(|c| c.finetune.beta2 = 1.0).unwrap_err().contains("finetune.beta2"));
    assert!(with_cache(|c| c.stages = Some(vec![StageName::Distill, StageName::Align])).is_err());
    assert!(with_cache(|c| c.method = Method::Sft).is_ok());
    assert!(with_cache(|c| c.device = "xyz".into()).unwrap_err().contains("not a device"));
    // A control exchanges samples where there is a Recalibrator.
    let one_held_out = |c: &mut RunConfig| c.eval.holdout = 1;
    assert!(with_cache(one_held_out).unwrap_err().contains("`eval.holdout` is 1"));
    let without = with_cache(|c| {
        c.eval.holdout = 1;
        c.method = Method::Kd;
    });
    assert_eq!(without, Ok(()));
}

#[test]
fn an_aligned_recalibrator_leaves_stage_align_out_unless_it_is_named() {
    let mut config = RunConfig::default();
    config.recalibrator.from = Some("other".into());
    assert_eq!(config.stages(), [StageName::Distill, StageName::Finetune]);
    config.stages = Some(vec![StageName::Align, StageName::Distill]);
    assert_eq!(config.stages(), [StageName::Align, StageName::Distill]);
    let mut refused = |change: fn(&mut RunConfig)| {
        (config.student, config.out, config.cache) = ("s".into(), "o".into(), Some("c".into()));
        let mut config = config.clone();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    };
    let copied = refused(|c| c.recalibrator.init = RecalibratorInit::Copy);
    assert!(copied.contains("both `recalibrator.from` and `recalibrator.init=copy`"), "{copied}");
    let unused = refused(|c| c.stages = Some(vec![StageName::Finetune]));
    assert!(unused.contains("`recalibrator.from` is for stages align and distill"), "{unused}");
}

#[test]
fn what_is_no_number_or_of_the_wrong_sign_is_refused_by_name() {
    let refused = |set: &str| {
        let typed = toml::from_str("student = \"s\"\nout = \"o\"\ncache = \"c\"").unwrap();
        let config: RunConfig = resolve(&RunConfig::default(), &common(&[set]), typed).unwrap();
        config.validate().map_err(|error| error.to_string())
    };
    // The last update at a rate that is no number would leave weights that are none.
    let wrong = [
        "align.lr_end=nan",
        "align.lr=inf",
        "distill.epochs=inf",
        "finetune.weight_decay=nan",
        "distill.clip=-1.0",
        "loss.kl=nan",
        "loss.ce_teacher=-1.0",
        "loss.temperature=inf",
        "recalibrator.init_std=nan",
        "multilevel_ot.sinkhorn=-0.5",
        "alm.temperature=inf",
        "data.max_bad=nan",
        "data.max_bad=1.5",
        "data.workers=1000000",
    ];
    for set in wrong {
        let (key, _) = set.split_once('=').unwrap();
        assert!(refused(set).unwrap_err().contains(&format!("`{key}`")), "{set}");
    }
    for set in ["align.clip=0.0", "align.lr_end=0.0", "loss.kl=0.0", "data.max_bad=1.0"] {
        assert_eq!(refused(set), Ok(()), "{set}");
    }
}

#[test]
fn steps_cover_the_samples() {
    let mut stage = StageConfig::finetune();
    stage.batch_size = 8;
    assert_eq!(stage.num_steps(16), 2);
    assert_eq!(stage.num_steps(17), 3);
    stage.epochs = 2.5;
    assert_eq!(stage.num_steps(16), 5);
    stage.steps = Some(4);
    assert_eq!(stage.num_steps(16), 4);
}
