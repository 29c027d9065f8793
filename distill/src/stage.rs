//! The one table: what each stage trains and which losses it takes.
//!
//! | stage | Recalibrator | student | A1 | A2 | method's loss | student's cross entropy |
//! |---|---|---|---|---|---|---|
//! | align | trains | frozen | yes | yes (`align.regularisation`) | no | no |
//! | distill | trains (`distill.freeze_recalibrator`) | `distill.train` | yes | no | no | yes |
//! | distill, method sft | absent | `distill.train` | no | no | no | yes |
//! | distill, any other method | absent | `distill.train` | no | no | yes | yes |
//! | finetune | gone | `finetune.train` | no | no | no | yes |
//!
//! A1 = CE(head_l(r_a), gt_l) + KL(head_l(za_l) || head_l(r_a)), r_a from Rec([zq_s, za_l]);
//! A2 is the same on Rec([zq_l, za_l]) (GenRecal, arXiv 2506.15681, sections 3.2 and 3.3).

use crate::config::{Method, PartName, RunConfig, StageName};

/// What becomes of the Recalibrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecalibratorRole {
    /// Not part of this stage.
    Absent,
    /// Used as it is.
    Frozen,
    /// Updated at each step.
    Trains,
}

/// What one stage does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// As in `--stages`.
    pub name: StageName,
    /// What becomes of the Recalibrator.
    pub recalibrator: RecalibratorRole,
    /// The parts of the student that train.
    pub student: Vec<PartName>,
    /// The loss A1.
    pub alignment: bool,
    /// The loss A2.
    pub regularisation: bool,
    /// The loss of a method of [`crate::methods`].
    pub method: bool,
    /// The student's own cross entropy.
    pub student_ce: bool,
}

impl Stage {
    /// The table's line of a stage.
    #[must_use]
    pub fn new(config: &RunConfig, name: StageName) -> Self {
        use RecalibratorRole::{Absent, Frozen, Trains};
        let keys = config.stage(name);
        let frozen = keys.freeze_recalibrator == Some(true);
        let genrecal = config.method == Method::Genrecal;
        let recalibrator = match name {
            StageName::Align => Trains,
            StageName::Distill if genrecal && frozen => Frozen,
            StageName::Distill if genrecal => Trains,
            _ => Absent,
        };
        let alignment = recalibrator != Absent;
        Self {
            name,
            recalibrator,
            student: keys.train.clone(),
            alignment,
            regularisation: name == StageName::Align && keys.regularisation == Some(true),
            method: config.method.reads_features(name) && !genrecal,
            student_ce: name != StageName::Align,
        }
    }
}
