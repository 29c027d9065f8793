//! What a stage trains with, loaded from where the last one ended.

use anyhow::{Result, bail};
use shared::ids::Fingerprint;
use shared::models::Model;

use super::{Planned, Run};
use crate::lora;
use crate::methods;
use crate::stage::{RecalibratorRole, Stage};
use crate::student;
use crate::train::ema::Ema;
use crate::train::optim::{AdamW, Param};
use crate::train::schedule::Schedule;
use crate::train::step::{MethodSide, RecomputedSides, Trainer};
use crate::train::student_features::StudentFeatures;
use crate::train::teacher::{Start, TeacherSide, require_all_tokens, teacher_head};

impl Run<'_> {
    /// Loads what a stage needs.
    pub(super) fn trainer(&self, planned: Planned) -> Result<Trainer> {
        let stage = Stage::new(self.config, planned.name);
        let keys = self.config.stage(planned.name).clone();
        let recomputed = RecomputedSides::default();
        let mut model = student::open(&self.base, &stage, &self.device, self.config.dtype.on(&self.device))?;
        if let Some(keys) = &keys.lora {
            lora::adapt(&mut model, keys, self.config.seed)?;
        }
        let recompute = self.config.memory.recompute.applies(model.body.decoder(), keys.microbatch_tokens);
        if recompute {
            model.body.recompute(recomputed.student.clone());
        }
        let mut teacher = self.teacher_side(&stage, &model)?;
        if let Some(side) = teacher.as_mut().filter(|_| recompute) {
            side.recalibrator.recompute(recomputed.recalibrator.clone());
        }
        let method = self.method_side(&stage, &model)?;
        let mut params = student::params(&model);
        params.extend(teacher.iter().flat_map(TeacherSide::params));
        params.extend(method.iter().flat_map(|side| side.method.params()));
        say_trained(&stage, &model, &params)?;
        let student_features = self.student_features(planned, &model)?;
        let averaged = self.config.ema.decay > 0.0;
        let ema = averaged.then(|| Ema::new(self.config.ema.decay, &params)).transpose()?;
        let optimizer = AdamW::new((&keys).into(), self.config.memory.optimizer, params)?;
        let schedule = Schedule::new(&keys, planned.num_steps);
        let loss = self.config.loss.clone();
        Ok(Trainer {
            stage,
            schedule,
            loss,
            model,
            teacher,
            method,
            student_features,
            recomputed,
            optimizer,
            ema,
            evaluates_ema: self.config.ema.evaluate,
            keys,
        })
    }

    /// The Recalibrator and the teacher's head, if this stage has them.
    fn teacher_side(&self, stage: &Stage, model: &Model) -> Result<Option<TeacherSide>> {
        let caches = match (&self.caches, stage.recalibrator) {
            (_, RecalibratorRole::Absent) => return Ok(None),
            (None, _) => bail!("stage {} needs a cache", stage.name.as_str()),
            (Some(caches), _) => caches,
        };
        if stage.regularisation {
            require_all_tokens(caches)?;
        }
        let start = Start {
            file: self.recalibrator.as_deref(),
            trains: stage.recalibrator == RecalibratorRole::Trains,
            regularisation: stage.regularisation,
            seed: self.config.seed,
            student: &self.base,
        };
        TeacherSide::open(&self.config.recalibrator, caches.first(), model, &start).map(Some)
    }

    /// Where a stage with a frozen student keeps its features. A student is its weights and what encodes its samples.
    fn student_features(&self, planned: Planned, model: &Model) -> Result<Option<StudentFeatures>> {
        let keys = self.config.stage(planned.name);
        if !keys.keeps_features(planned.num_steps, self.source.num_train()) {
            return Ok(None);
        }
        let fields = self.identity.fields.iter();
        let of_student = fields.filter(|(field, _)| {
            field.starts_with("student ") || ["device", "dtype"].contains(&field.as_str())
        });
        let identity = Fingerprint { fields: of_student.map(|(k, v)| (k.clone(), v.clone())).collect() };
        let dir = StudentFeatures::path(&self.config.out);
        let width = model.body.decoder().hidden_size;
        StudentFeatures::open(&dir, &identity, width, (&model.device, model.dtype)).map(Some)
    }

    /// The method without a Recalibrator, if this stage has one.
    fn method_side(&self, stage: &Stage, model: &Model) -> Result<Option<MethodSide>> {
        let Some(caches) = self.caches.as_ref().filter(|_| stage.method) else { return Ok(None) };
        let cache = caches.first();
        let Some(method) = methods::open(self.config, model, cache.width())? else { return Ok(None) };
        let head = teacher_head(cache, &model.device, model.dtype)?;
        methods::check(self.config.method, method.as_ref(), cache, &self.source)?;
        Ok(Some(MethodSide { method, head }))
    }
}

/// Tells how much a stage trains, and refuses one that trains nothing.
fn say_trained(stage: &Stage, model: &Model, params: &[Param]) -> Result<()> {
    let name = stage.name.as_str();
    if params.is_empty() {
        bail!("stage {name} trains nothing");
    }
    let num_trained: usize = params.iter().map(|param| param.var.elem_count()).sum();
    let of_student = model.params.num_elements();
    shared::say!("stage {name} trains {num_trained} weights, {of_student} of them the student's");
    Ok(())
}
