//! Plans of nnU-Net v1 and of the BraTS 2021 winner's fork, told as version 2 tells them.
//!
//! Version 1 keeps plans in a pickle and leaves everything else to the trainer's class: widths, normalisation, regions
//! and the network itself. [`V1Model::convert`] puts both together into a `plans.json` and a `dataset.json` with all of
//! it written out, so that the rest of the program knows one kind of model only; the key `rules` says that version 1's
//! rules hold for it.

use crate::json::Node;
use crate::{AttentionPlace, NormKind, PlanError, Rules};
use serde_json::{Map, Value, json};
use std::path::Path;

/// More than any plan has; keeps a hostile file from asking for absurd networks.
const MAX: usize = 1 << 16;
/// The trainer classes that can be used.
const TRAINERS: [(&str, V1Trainer); 30] = trainers();

/// What a trainer class of nnU-Net v1 decides besides the plans.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the classes")]
pub struct V1Trainer {
    /// Normalisation.
    pub norm: NormKind,
    /// How many times the base features of the plans.
    pub width: usize,
    /// How much wider the encoder is than the decoder's output.
    pub encoder_scale: usize,
    /// The most features of a stage; `None` is 320, or 480 in 2D.
    pub max_features: Option<usize>,
    /// Axial attention: where, heads and features of a head at full resolution.
    pub attention: Option<(AttentionPlace, usize, usize)>,
    /// Dropout of one half in the bottleneck.
    pub dropout_bottleneck: bool,
    /// Dropout of one half in stage 4 too.
    pub dropout_stage_4: bool,
    /// Whether it trains the BraTS regions rather than labels.
    pub regions: bool,
    /// Whether tiles are mirrored at inference.
    pub mirroring: bool,
}

const fn trainers() -> [(&'static str, V1Trainer); 30] {
    const LABELS: V1Trainer = V1Trainer {
        norm: NormKind::Instance,
        width: 1,
        encoder_scale: 1,
        max_features: None,
        attention: None,
        dropout_bottleneck: false,
        dropout_stage_4: false,
        regions: false,
        mirroring: true,
    };
    const IN: V1Trainer = V1Trainer { regions: true, ..LABELS };
    const BN: V1Trainer = V1Trainer { norm: NormKind::Batch, ..IN };
    const GN: V1Trainer = V1Trainer { norm: NormKind::Group { groups: 32 }, ..IN };
    const XL: V1Trainer = V1Trainer { width: 2, max_features: Some(1024), ..GN };
    const XL_DROP: V1Trainer = V1Trainer {
        norm: NormKind::Group { groups: 16 },
        dropout_bottleneck: true,
        dropout_stage_4: true,
        ..XL
    };
    const LARGE: Option<usize> = Some(512);
    [
        ("nnUNetTrainerV2", LABELS),
        ("nnUNetTrainerV2_DP", LABELS),
        ("nnUNetTrainerV2_DDP", LABELS),
        ("nnUNetTrainerV2_DA3", LABELS),
        ("nnUNetTrainerV2_BN", V1Trainer { norm: NormKind::Batch, ..LABELS }),
        ("nnUNetTrainerV2_noMirroring", V1Trainer { mirroring: false, ..LABELS }),
        ("nnUNetTrainerV2BraTSRegions", IN),
        ("nnUNetTrainerV2BraTSRegions_Dice", IN),
        ("nnUNetTrainerV2BraTSRegions_DDP", IN),
        ("nnUNetTrainerV2BraTSRegions_BN", BN),
        ("nnUNetTrainerV2BraTSRegions_DA3", IN),
        ("nnUNetTrainerV2BraTSRegions_DA3_BD", IN),
        ("nnUNetTrainerV2BraTSRegions_DA3_BN", BN),
        ("nnUNetTrainerV2BraTSRegions_DA3_BN_BD", BN),
        ("nnUNetTrainerV2BraTSRegions_DA4", IN),
        ("nnUNetTrainerV2BraTSRegions_DA4_BD", IN),
        ("nnUNetTrainerV2BraTSRegions_DA4_BN", BN),
        ("nnUNetTrainerV2BraTSRegions_DA4_BN_no_dice", BN),
        ("nnUNetTrainerV2BraTSRegions_DA4_BN_BD", BN),
        (
            "nnUNetTrainerV2BraTSRegions_DA4_BN_BD_largeUnet",
            V1Trainer { encoder_scale: 2, max_features: LARGE, ..BN },
        ),
        ("nnUNetTrainerV2BraTSRegions_DA4_BN_BD_Groupnorm", GN),
        (
            "nnUNetTrainerV2BraTSRegions_DA4_BN_BD_largeUnet_Groupnorm",
            V1Trainer { encoder_scale: 2, max_features: LARGE, ..GN },
        ),
        (
            "nnUNetTrainerV2BraTSRegions_DA4_BN_BD_normalUnet_axialattention",
            V1Trainer { attention: Some((AttentionPlace::Decoder, 2, 8)), ..BN },
        ),
        (
            "nnUNetTrainerV2BraTSRegions_DA4_BN_BD_axialattention_unet",
            V1Trainer { attention: Some((AttentionPlace::Everywhere, 1, 4)), ..BN },
        ),
        (
            "nnUNetTrainerV2BraTSRegions_DA4_BN_BD_res_axial_attention_unet",
            V1Trainer { attention: Some((AttentionPlace::EverywhereResidual, 1, 4)), ..BN },
        ),
        ("nnUNetTrainerV2BraTSRegions_DA4_GN_BD_XL_Unet", XL),
        ("nnUNetTrainerV2BraTSRegions_DA4_GN_BD_XL_dropout50_Unet", XL_DROP),
        (
            "nnUNetTrainerV2BraTSRegions_DA4_GN_BD_XL_dropout50_only_last_level_Unet",
            V1Trainer { dropout_stage_4: false, ..XL_DROP },
        ),
        ("nnUNetTrainerV2BraTSRegions_DA4_GN_BD_XL_dropout50_two_last_levels_Unet", XL_DROP),
        // The first stage of a cascade has the default network.
        ("nnUNetTrainerV2CascadeFullRes", LABELS),
    ]
}

impl V1Trainer {
    /// The trainer of a class name; `path`, where the name stands, is only named in errors.
    ///
    /// # Errors
    /// [`PlanError::V1Trainer`] for a class that is not known, or whose network is not.
    ///
    /// # Source
    /// The winner's fork, `nnUNetTrainerV2BraTSRegions_moreDA.py`; nnU-Net v1, `nnUNetTrainerV2BraTSRegions.py`.
    pub fn named(name: &str, path: &Path) -> Result<V1Trainer, PlanError> {
        let refused = |reason: &'static str| PlanError::V1Trainer {
            path: path.to_owned(),
            name: name.to_owned(),
            reason,
            known: TRAINERS.iter().map(|(n, _)| (*n).to_owned()).collect(),
        };
        if name == "nnUNetTrainerV2BraTSRegions_SwinUNETR" {
            return Err(refused("its network is MONAI's SwinUNETR, which glioseg does not have"));
        }
        let found = TRAINERS.iter().find(|(n, _)| *n == name).map(|(_, t)| *t);
        found.ok_or_else(|| refused("glioseg does not know which network it has"))
    }
}

/// A model of nnU-Net v1 as its files tell it.
#[derive(Debug, Clone, Copy)]
pub struct V1Model<'a> {
    /// The plans, from `plans.pkl` or from the entry `plans` of a `.model.pkl`.
    pub plans: &'a Value,
    /// Where the plans stand; only named in errors.
    pub path: &'a Path,
    /// Trainer class.
    pub trainer: &'a str,
    /// Stage of the plans that was trained, if the files tell.
    pub stage: Option<usize>,
    /// Network as the folders name it: `2d`, `3d_lowres`, `3d_fullres`, `3d_cascade_fullres`.
    pub network: Option<&'a str>,
    /// Name of the dataset, such as `Task500_BraTS2021`.
    pub dataset_name: &'a str,
    /// Name of the plans, such as `nnUNetPlansv2.1`.
    pub plans_name: &'a str,
    /// Number of position embeddings in the decoder, and the voxels, `[z, y, x]`, that the finest of them is for.
    pub embeddings: Option<(usize, [usize; 3])>,
}

/// Plans and dataset description in version 2's form.
#[derive(Debug, Clone, PartialEq)]
pub struct V1Converted {
    /// `plans.json`, with one configuration.
    pub plans: Value,
    /// `dataset.json`.
    pub dataset: Value,
    /// Name of the configuration.
    pub configuration: String,
    /// Axes of the patch that may be mirrored.
    pub mirror_axes: Vec<usize>,
}

impl V1Model<'_> {
    /// Plans, dataset description and trainer class as `plans.json` and `dataset.json`.
    ///
    /// # Errors
    /// [`PlanError::V1Trainer`], [`PlanError::V1Stage`], and the errors of missing and contradictory keys.
    ///
    /// # Source
    /// nnU-Net v1, `nnUNetTrainer.process_plans`, `Generic_UNet.__init__`, `GenericPreprocessor`.
    pub fn convert(&self) -> Result<V1Converted, PlanError> {
        let trainer = V1Trainer::named(self.trainer, self.path)?;
        let root = Node::root(self.path, self.plans);
        let (number, stage) = self.stage(&root)?;
        let cascade = self.trainer.contains("Cascade") || self.network == Some("3d_cascade_fullres");
        let patch = stage.get("patch_size")?;
        let patch_size = counts(&patch)?;
        let dim = patch_size.len();
        if !(2..=3).contains(&dim) {
            return Err(patch.wrong("a list of 2 or 3 whole numbers"));
        }
        let stages = root.get("plans_per_stage")?.map()?.len();
        let configuration = match (dim, cascade) {
            (2, _) => "2d",
            (_, true) => "3d_cascade_fullres",
            _ if stages > 1 && number == 0 => "3d_lowres",
            _ => "3d_fullres",
        };
        let channels: Vec<Value> = by_number(&root.get("modalities")?, |n| Ok(Value::from(n.str()?)))?;
        let normalization = by_number(&root.get("normalization_schemes")?, |n| match n.str()? {
            "CT" => Ok("CTNormalization"),
            "nonCT" => Ok("ZScoreNormalization"),
            "noNorm" => Ok("NoNormalization"),
            _ => Err(n.unknown(&["nonCT", "CT", "noNorm"])),
        })?;
        let masks = by_number(&root.get("use_mask_for_norm")?, flag)?;
        let spacing = stage.get("current_spacing")?;
        let mut mm = spacing.list()?.iter().map(Node::f64).collect::<Result<Vec<_>, _>>()?;
        if mm.len() < dim {
            return Err(spacing.wrong(format!("a list of at least {dim} numbers")));
        }
        mm.drain(..mm.len() - dim);
        let resampling = |is_seg: bool, order: u8| json!({"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": null});
        let function = "resample_data_or_seg_to_shape";
        let mut described = json!({
            "rules": Rules::V1.name(),
            "data_identifier": root.opt("data_identifier")?.map_or(Ok("nnUNetData_plans_v2.1"), |n| n.str())?,
            "preprocessor_name": root.opt("preprocessor_name")?.map_or(Ok("GenericPreprocessor"), |n| n.str())?,
            "batch_size": stage.get("batch_size")?.count(MAX)?,
            "patch_size": patch_size,
            "spacing": mm,
            "normalization_schemes": normalization,
            "use_mask_for_norm": masks,
            "resampling_fn_data": function,
            "resampling_fn_data_kwargs": resampling(false, 3),
            "resampling_fn_seg": function,
            "resampling_fn_seg_kwargs": resampling(true, 1),
            "resampling_fn_probabilities": function,
            "resampling_fn_probabilities_kwargs": resampling(false, 1),
            "architecture": self.architecture(&trainer, &root, &stage, dim)?,
            "batch_dice": true,
        });
        if let Some(median) = stage.opt("median_patient_size_in_voxels")? {
            described["median_image_size_in_voxels"] = median.value().clone();
        }
        if cascade {
            described["previous_stage"] = "3d_lowres".into();
        }
        let mut configurations = Map::new();
        configurations.insert(configuration.to_owned(), described);
        let plans = json!({
            "dataset_name": self.dataset_name,
            "plans_name": self.plans_name,
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": root.opt("transpose_forward")?.map_or(json!([0, 1, 2]), |n| n.value().clone()),
            "transpose_backward": root.opt("transpose_backward")?.map_or(json!([0, 1, 2]), |n| n.value().clone()),
            "configurations": configurations,
            "experiment_planner_used": "nnU-Net v1",
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": intensities(&root)?,
        });
        let names: Map<String, Value> =
            channels.into_iter().enumerate().map(|(i, name)| (i.to_string(), name)).collect();
        let mut dataset = json!({"channel_names": names, "labels": labels(&trainer, &root)?});
        if trainer.regions {
            dataset["regions_class_order"] = json!([1, 2, 3]);
        }
        if let Some(sizes) = root.opt("original_sizes")? {
            dataset["numTraining"] = sizes.list()?.len().into();
        }
        dataset["file_ending"] = ".nii.gz".into();
        Ok(V1Converted {
            plans,
            dataset,
            configuration: configuration.to_owned(),
            mirror_axes: if trainer.mirroring { (0..dim).collect() } else { Vec::new() },
        })
    }

    /// The trained stage: as the model says, or as its folders do, or the only one.
    fn stage<'a>(&self, root: &Node<'a>) -> Result<(usize, Node<'a>), PlanError> {
        let table = root.get("plans_per_stage")?;
        let mut stages = Vec::new();
        for (number, node) in table.entries()? {
            let number = number
                .parse::<usize>()
                .map_err(|_| table.wrong("an object with the numbers of the stages"))?;
            stages.push((number, node));
        }
        stages.sort_by_key(|(number, _)| *number);
        let last = stages.len().saturating_sub(1);
        let wanted = match (self.stage, self.network) {
            (Some(stage), _) => Some(stage),
            (None, _) if stages.len() == 1 => stages.first().map(|(n, _)| *n),
            (None, Some("2d" | "3d_lowres")) => stages.first().map(|(n, _)| *n),
            (None, Some("3d_fullres" | "3d_cascade_fullres")) => stages.get(last).map(|(n, _)| *n),
            _ => None,
        };
        let described = || {
            let spacing = |n: &Node<'_>| {
                n.get("current_spacing").map_or_else(|_| "?".into(), |s| s.value().to_string())
            };
            stages.iter().map(|(number, node)| format!("{number} (spacing {} mm)", spacing(node))).collect()
        };
        let found = wanted.and_then(|w| stages.iter().find(|(n, _)| *n == w));
        found.cloned().ok_or_else(|| PlanError::V1Stage {
            path: self.path.to_owned(),
            wanted,
            stages: described(),
        })
    }

    fn architecture(
        &self,
        trainer: &V1Trainer,
        root: &Node<'_>,
        stage: &Node<'_>,
        dim: usize,
    ) -> Result<Value, PlanError> {
        let triples = |node: &Node<'_>| node.list()?.iter().map(counts).collect::<Result<Vec<_>, _>>();
        let pools = if let Some(node) = stage.opt("pool_op_kernel_sizes")? {
            triples(&node)?
        } else {
            let per_axis = stage.get("num_pool_per_axis")?.list()?;
            let per_axis = per_axis.iter().map(Node::usize).collect::<Result<Vec<_>, _>>()?;
            let most = per_axis.iter().copied().max().unwrap_or(0).min(MAX);
            (0..most).map(|i| per_axis.iter().map(|&n| if most - i <= n { 2 } else { 1 }).collect()).collect()
        };
        let kernels = match stage.opt("conv_kernel_sizes")? {
            Some(node) => triples(&node)?,
            None => vec![vec![3; dim]; pools.len() + 1],
        };
        let convs = root.opt("conv_per_stage")?.map_or(Ok(2), |n| n.count(MAX))?;
        let base = root.get("base_num_features")?.count(MAX)? * trainer.width;
        let most = trainer.max_features.unwrap_or(if dim == 2 { 480 } else { 320 });
        let stages = pools.len() + 1;
        let mut strides = vec![vec![1; dim]];
        strides.extend(pools);
        let (norm_op, norm_op_kwargs) = match trainer.norm {
            NormKind::Group { groups } if dim == 3 => (
                "normalization.GroupNorm".to_owned(),
                json!({"num_groups": groups, "eps": 1e-5, "affine": true}),
            ),
            NormKind::Instance => {
                (format!("instancenorm.InstanceNorm{dim}d"), json!({"eps": 1e-5, "affine": true}))
            }
            // The winner's trainers fall back to it in 2D.
            _ => (format!("batchnorm.BatchNorm{dim}d"), json!({"eps": 1e-5, "affine": true})),
        };
        let mut args = json!({
            "n_stages": stages,
            "base_num_features": base,
            "max_num_features": most,
            "conv_op": format!("torch.nn.modules.conv.Conv{dim}d"),
            "kernel_sizes": kernels,
            "strides": strides,
            "n_conv_per_stage": vec![convs; stages],
            "n_conv_per_stage_decoder": vec![convs; stages - 1],
            "conv_bias": true,
            "norm_op": format!("torch.nn.modules.{norm_op}"),
            "norm_op_kwargs": norm_op_kwargs,
            "dropout_op": null,
            "dropout_op_kwargs": null,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"negative_slope": 0.01, "inplace": true},
            "encoder_scale": trainer.encoder_scale,
        });
        if trainer.dropout_bottleneck {
            let mut dropping = vec![stages - 1];
            if trainer.dropout_stage_4 && stages > 5 {
                dropping.insert(0, 4);
            }
            args["dropout_op"] = format!("torch.nn.modules.dropout.Dropout{dim}d").into();
            args["dropout_op_kwargs"] = json!({"p": 0.5, "inplace": true});
            args["dropout_stages"] = json!(dropping);
        }
        if let Some((place, heads, dim_heads)) = trainer.attention {
            // The winner's class leaves out the full resolution; how many steps have embeddings, the weights tell.
            let steps = self.embeddings.map_or(stages - 2, |(steps, _)| steps);
            let excluded: Vec<usize> = match place {
                AttentionPlace::Decoder => (0..(stages - 1).saturating_sub(steps)).collect(),
                AttentionPlace::Everywhere | AttentionPlace::EverywhereResidual => vec![0],
            };
            let mut attention = json!({"place": place.name(), "heads": heads, "dim_heads": dim_heads, "excluded_levels": excluded});
            if let Some((steps, finest)) = self.embeddings {
                let level = (stages - 1).saturating_sub(steps).min(16);
                attention["volume_shape"] = json!(finest.map(|size| size << level));
            }
            args["axial_attention"] = attention;
        }
        Ok(json!({
            "network_class_name": "nnunet.network_architecture.generic_UNet.Generic_UNet",
            "arch_kwargs": args,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }))
    }
}

fn flag(node: &Node<'_>) -> Result<bool, PlanError> {
    node.bool()
}

fn counts(node: &Node<'_>) -> Result<Vec<usize>, PlanError> {
    node.list()?.iter().map(|n| n.count(MAX)).collect()
}

/// The entries of an object that is numbered from 0.
fn by_number<T>(
    node: &Node<'_>,
    read: impl Fn(&Node<'_>) -> Result<T, PlanError>,
) -> Result<Vec<T>, PlanError> {
    (0..node.map()?.len()).map(|i| read(&node.get(&i.to_string())?)).collect()
}

/// The label values are the winner's: 1 oedema, 2 necrosis, 3 enhancing tumour.
fn labels(trainer: &V1Trainer, root: &Node<'_>) -> Result<Value, PlanError> {
    if trainer.regions {
        return Ok(
            json!({"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}),
        );
    }
    let mut labels = Map::new();
    labels.insert("background".to_owned(), 0.into());
    for class in root.get("all_classes")?.list()? {
        let value = class.count(MAX)?;
        labels.insert(format!("label {value}"), value.into());
    }
    Ok(Value::Object(labels))
}

/// Foreground statistics, which version 1 has for CT only.
fn intensities(root: &Node<'_>) -> Result<Value, PlanError> {
    let properties = match root.opt("dataset_properties")? {
        None => None,
        Some(node) => node.opt("intensityproperties")?,
    };
    let Some(properties) = properties else { return Ok(json!({})) };
    let mut channels = Map::new();
    for (number, channel) in properties.entries()? {
        let mut renamed = Map::new();
        for (new, old) in [
            ("max", "mx"),
            ("mean", "mean"),
            ("median", "median"),
            ("min", "mn"),
            ("percentile_00_5", "percentile_00_5"),
            ("percentile_99_5", "percentile_99_5"),
            ("std", "sd"),
        ] {
            renamed.insert(new.to_owned(), channel.get(old)?.f64()?.into());
        }
        channels.insert(number.to_owned(), Value::Object(renamed));
    }
    Ok(Value::Object(channels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ArchitectureKind, Dataset, Plans};
    use glioseg_diagnose::Diagnose as _;

    fn plans() -> Value {
        let stage = |spacing: f64| {
            json!({"batch_size": 2, "num_pool_per_axis": [3, 2, 3], "patch_size": [40, 32, 48],
                "current_spacing": [spacing, 1.0, 1.0], "original_spacing": [1.0, 1.0, 1.0]})
        };
        json!({"num_modalities": 2, "modalities": {"0": "T1", "1": "FLAIR"},
            "normalization_schemes": {"0": "nonCT", "1": "nonCT"}, "use_mask_for_norm": {"0": true, "1": true},
            "all_classes": [1, 2, 3], "base_num_features": 32, "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2], "plans_per_stage": {"0": stage(2.5), "1": stage(1.0)}})
    }

    fn model<'a>(plans: &'a Value, trainer: &'a str) -> V1Model<'a> {
        V1Model {
            plans,
            path: Path::new("plans.pkl"),
            trainer,
            stage: None,
            network: None,
            dataset_name: "Task500_BraTS2021",
            plans_name: "nnUNetPlansv2.1",
            embeddings: None,
        }
    }

    #[test]
    fn old_plans_without_kernels_get_version_1s_defaults() {
        let plans = plans();
        let mut large = model(&plans, "nnUNetTrainerV2BraTSRegions_DA4_BN_BD_largeUnet_Groupnorm");
        large.stage = Some(0);
        let converted = large.convert().expect("plans");
        assert_eq!(
            (converted.configuration.as_str(), &converted.mirror_axes[..]),
            ("3d_lowres", &[0, 1, 2][..])
        );
        let plans = Plans::from_value(converted.plans, Path::new("plans.json")).expect("valid");
        let c = plans.configuration("3d_lowres").expect("valid");
        assert_eq!(c.rules, Rules::V1);
        let a = &c.architecture;
        assert_eq!(a.kind, ArchitectureKind::GenericUNet);
        assert_eq!(a.features_per_stage, [64, 128, 256, 512]);
        assert_eq!(a.strides, [[1, 1, 1], [2, 1, 2], [2, 2, 2], [2, 2, 2]]);
        assert_eq!(a.kernel_sizes, [[3, 3, 3]; 4]);
        assert_eq!(a.norm.kind, NormKind::Group { groups: 32 });
        assert_eq!(a.generic.as_ref().map(|g| g.encoder_scale), Some(2));
        let dataset = Dataset::from_value(converted.dataset, Path::new("dataset.json")).expect("valid");
        assert_eq!(dataset.channel_names, ["T1", "FLAIR"]);
        assert_eq!(dataset.labels.regions()[1].labels, [2, 3]);
    }

    #[test]
    fn several_stages_are_told_apart_by_model_or_folder() {
        let plans = plans();
        let name = "nnUNetTrainerV2BraTSRegions_DA4_BN_BD";
        let at = |stage, network| V1Model { stage, network, ..model(&plans, name) }.convert();
        assert_eq!(at(None, Some("3d_fullres")).expect("stage 1").configuration, "3d_fullres");
        assert_eq!(at(None, Some("3d_lowres")).expect("stage 0").configuration, "3d_lowres");
        let unsaid = at(None, None).expect_err("which one?").to_string();
        assert_eq!(
            unsaid,
            "plans.pkl: the plans have the stages 0 (spacing [2.5,1.0,1.0] mm), 1 (spacing [1.0,1.0,1.0] mm), and neither \
             the model nor its folders tell which one was trained"
        );
        let absent = at(Some(2), None).expect_err("no stage 2").to_string();
        assert!(
            absent.contains("the model was trained on stage 2, but the plans have the stages 0"),
            "{absent}"
        );
    }

    #[test]
    fn unknown_trainers_and_swin_are_refused_by_name() {
        let plans = plans();
        let error = model(&plans, "nnUNetTrainerV2BraTSRegions_DA4_BN_BD_largeUnetGroupnorm").convert();
        let error = error.expect_err("a misspelling");
        assert!(
            error.to_string().contains("`nnUNetTrainerV2BraTSRegions_DA4_BN_BD_largeUnetGroupnorm`"),
            "{error}"
        );
        let hint = error.hint().expect("a hint");
        assert!(
            hint.contains("did you mean `nnUNetTrainerV2BraTSRegions_DA4_BN_BD_largeUnet_Groupnorm`"),
            "{hint}"
        );
        let error =
            model(&plans, "nnUNetTrainerV2BraTSRegions_SwinUNETR").convert().expect_err("another network");
        assert!(error.to_string().contains("SwinUNETR, which glioseg does not have"), "{error}");
    }

    #[test]
    fn every_known_trainer_gives_a_network() {
        let plans = plans();
        for (name, _) in TRAINERS {
            let converted = V1Model { stage: Some(1), ..model(&plans, name) }.convert().expect(name);
            let read = Plans::from_value(converted.plans, Path::new("plans.json")).expect(name);
            let c = read.configuration(&converted.configuration).expect(name);
            assert_eq!(c.previous_stage.is_some(), name.contains("Cascade"), "{name}");
        }
    }
}
