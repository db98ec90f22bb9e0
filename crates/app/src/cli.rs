//! The command line: names, meanings, units and defaults. Parsing only validates.
#![expect(
    clippy::doc_markdown,
    reason = "doc comments here are help texts, where backticks would be printed"
)]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use glioseg_dicom::NamedSeries;
use glioseg_infer::Part;
use glioseg_infer::model::{CheckpointChoice, Folds};
use glioseg_plan::matching::NamedPattern;

use glioseg_plan::OutputLabels;
use glioseg_workflow::preprocess::Space;

use crate::arguments::Compute;
use crate::commands::apply::Apply;
use crate::commands::compare::Compare;
use crate::commands::crossval::Crossval;
use crate::commands::dataset::DatasetCommand;
use crate::commands::dicom::DicomCommand;
use crate::commands::ensemble::Ensemble;
use crate::commands::evaluate::Evaluate;
use crate::commands::fingerprint::Fingerprint;
use crate::commands::plan::Plan;
use crate::commands::postprocess::Postprocess;
use crate::commands::prep::Prep;
use crate::commands::preprocess::Preprocess;
use crate::commands::rank::Rank;
use crate::commands::report::Report;
use crate::commands::train::Train;
use crate::commands::view::View;

/// Brain-tumour segmentation of MRI with nnU-Net models. Research use only: not a medical device.
#[derive(Debug, Parser)]
#[command(name = "glioseg", version, about, max_term_width = 110, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Threads to compute with [default: one per core]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Print warnings and errors only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring raw scans to the space of BraTS: registered, brain only, on one grid
    Preprocess(Box<Preprocess>),
    /// Segment cases with a trained model
    Predict(Box<Predict>),
    /// Bring a label map from the space of BraTS back to the grid of a scan
    Apply(Apply),
    /// Average the saved probabilities of several predictions, as nnU-Net does
    Ensemble(Ensemble),
    /// Remove what is too small from label maps, or find out how small that is
    Postprocess(Postprocess),
    /// Look over a raw dataset before anything is made of it
    #[command(subcommand)]
    Dataset(DatasetCommand),
    /// Read DICOM studies and write segmentations: list series, convert them to NIfTI, store label maps
    #[command(subcommand)]
    Dicom(DicomCommand),
    /// Measure a raw dataset: spacings, shapes, intensities
    Fingerprint(Fingerprint),
    /// Plan patch, network and preprocessing from the fingerprint, as nnU-Net does
    Plan(Plan),
    /// Preprocess the cases of a dataset for training
    Prep(Prep),
    /// Train one fold of a dataset, and validate it
    Train(Box<Train>),
    /// Train all folds, compare configurations and ensembles, decide the postprocessing
    Crossval(Box<Crossval>),
    /// Score a folder of predictions against references, by every rule in use
    Evaluate(Evaluate),
    /// Rank several scored runs, and test whether the order is more than chance
    Rank(Rank),
    /// Compare two scored runs case by case, worst first
    Compare(Compare),
    /// Show scores, ranking and every case on one HTML page
    Report(Report),
    /// Serve reports and their volumes to a browser on this machine
    View(View),
    /// Say what is in an image, dataset, plan, model or checkpoint
    Info(Info),
    /// Rewrite a model of nnU-Net, of either version, as safetensors and JSON
    Convert(Convert),
    /// Say what networks can run on here, and what is missing for it
    Devices(Devices),
    /// Measure speed and memory on this machine
    #[command(subcommand)]
    Bench(Bench),
    /// Make artificial cases: a head with a tumour in four channels, and its labels
    Phantom(Phantom),
    /// Make phantoms, train a small network on them, segment others with it, and score the result
    Demo(Demo),
}

/// How DICOM studies are read by a prediction, and what is written for them.
#[derive(Debug, Clone, Args)]
pub(crate) struct DicomInput {
    /// Takes this series of a DICOM study for a contrast, such as t1c=8; `glioseg dicom list` shows them
    #[arg(long, value_name = "CONTRAST=SERIES", value_parser = crate::commands::dicom::named, help_heading = "DICOM")]
    pub(crate) series: Vec<NamedSeries>,
    /// Trust that all series of a DICOM study lie in one frame of reference, though their headers do not say so
    #[arg(long, help_heading = "DICOM")]
    pub(crate) assume_aligned: bool,
    /// What is written for a DICOM study besides CASE.nii.gz: seg (CASE.dcm), rtstruct (CASE_rtstruct.dcm), or nifti alone
    #[arg(
        long,
        value_enum,
        value_name = "FORMS",
        value_delimiter = ',',
        default_value = "seg",
        help_heading = "DICOM"
    )]
    pub(crate) write: Vec<StudyForm>,
}

/// A form of results of DICOM studies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StudyForm {
    /// The label map alone, which is always written
    Nifti,
    /// A DICOM segmentation
    Seg,
    /// A DICOM structure set
    Rtstruct,
}

/// Segments every case of the input with every fold of a model and writes one label map per case.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  glioseg predict -m nnUNetTrainer__nnUNetPlans__3d_fullres -i BraTS2021 -o predicted\n  \
    glioseg predict -m nnUNetTrainer__nnUNetPlans__3d_cascade_fullres -i BraTS2021 -o predicted\n  \
    glioseg predict --raw --brain HDBET -m MODEL -i studies -o predicted\n  glioseg predict --recipe brats21 -m BL_MODEL -m BL_L_GN_MODEL -i BraTS2021 -o submission\n\n\
    The recipe brats21 averages two models, takes an enhancing tumour below 200 voxels for necrotic core, and writes the labels\n\
    0, 1, 2, 4. A recipe is a small JSON file: copy crates/infer/recipes/brats21.json of the sources to make another.\n\n\
    Ctrl-C stops before the next tile; --continue does the rest later. A second one ends at once.\n\n\
    Exit code: 0 all cases done, 1 some case failed or Ctrl-C (the others are written), 2 could not start."
)]
#[expect(clippy::struct_excessive_bools, reason = "every flag of a command line is a bool")]
pub(crate) struct Predict {
    /// Result folder of a model, with plans.json, dataset.json and fold_*, or of nnU-Net v1 with plans.pkl; several are averaged
    #[arg(short, long, required_unless_present = "dataset", value_name = "MODEL", num_args = 1..)]
    pub(crate) model: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) by_name: ModelByName,
    /// Folder of CASE_0000.nii.gz files, a BraTS folder or a folder of such, the files of one case, or DICOM studies
    #[arg(short, long, required_unless_present = "channel", value_name = "INPUT", num_args = 1..)]
    pub(crate) input: Vec<PathBuf>,
    /// Files of any name, once for each channel, such as --channel t1=scan1.nii.gz, or a pattern below INPUT such as
    /// --channel flair='*/FLAIR.nii.gz': what the stars stand for is the name of the case
    #[arg(long, value_name = "NAME=FILE", help_heading = "Input")]
    pub(crate) channel: Vec<NamedPattern>,
    #[command(flatten)]
    pub(crate) study: DicomInput,
    /// For the second stage of a cascade (3d_cascade_fullres): folder of the first stage's predictions, CASE.nii.gz, as
    /// nnU-Net's -prev_stage_predictions [default: the first stage is predicted before, into OUT/previous_stage]
    #[arg(long, value_name = "DIR", conflicts_with = "prev_stage_model", help_heading = "Input")]
    pub(crate) prev_stage: Option<PathBuf>,
    /// For the second stage of a cascade: model folder of the first stage [default: the one next to MODEL with the same trainer
    /// and plans]
    #[arg(long, value_name = "MODEL", help_heading = "Input")]
    pub(crate) prev_stage_model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) scans: RawScans,
    /// Folder for CASE.nii.gz and predict.json; made if it is not there
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Folds: `all`, or numbers such as 0,1,2 [default: every cross-validation fold found]
    #[arg(short, long, value_name = "FOLDS")]
    pub(crate) folds: Option<Folds>,
    /// Which checkpoint of a fold: `final` (the end of training), `best` (the best validation score), or a file's name such as
    /// checkpoint_latest
    #[arg(long, value_name = "NAME", default_value = "final")]
    pub(crate) checkpoint: CheckpointChoice,
    #[command(flatten)]
    pub(crate) compute: Compute,
    /// Distance of neighbouring tiles, as a fraction of the patch
    #[arg(long, value_name = "FRACTION", default_value_t = 0.5, value_parser = fraction, help_heading = "Computation")]
    pub(crate) step: f64,
    /// Do not average over mirrored tiles: 8 times faster, a little less accurate
    #[arg(long, help_heading = "Computation")]
    pub(crate) no_mirroring: bool,
    /// Precision of the sums over tiles and folds: half gives nnU-Net's own numbers, single does not round
    #[arg(long, value_enum, default_value = "half", help_heading = "Computation")]
    pub(crate) accumulation: Accumulation,
    /// For models with axial attention whose position embeddings are for another patch size: interpolate them
    #[arg(long, help_heading = "Computation")]
    pub(crate) interpolate_positions: bool,
    /// Several models as one submission: `brats21` (the winner of BraTS 2021), or the file of a recipe; see below
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "postprocessing", help_heading = "Output")]
    pub(crate) recipe: Option<String>,
    /// Steps on the label map: a postprocessing.json, or `none` [default: that of the model folder, if it has one]
    #[arg(long, value_name = "FILE|none", help_heading = "Output")]
    pub(crate) postprocessing: Option<String>,
    /// Which values are written: dataset (those of dataset.json), brats2018 to brats2022 or brats (1-2-4), brats2023 or
    /// brats2024 (1-2-3, and 4 a resection cavity), nnunet [default: dataset, or those of the recipe]
    #[arg(long, value_name = "CODING", help_heading = "Output")]
    pub(crate) labels: Option<OutputLabels>,
    /// Also write CASE.npz and CASE.pkl as nnU-Net does: the array `probabilities`, [channel, z, y, x]; for models of version 1
    /// `softmax` of the cropped box
    #[arg(long, help_heading = "Output")]
    pub(crate) save_probabilities: bool,
    /// Also write how far folds, models and mirrored passes agree: maps below OUT/uncertainty, scores in predict.json
    #[arg(long, help_heading = "Output")]
    pub(crate) uncertainty: bool,
    /// Also write OUT/report.html with slices of every case
    #[arg(long, help_heading = "Output")]
    pub(crate) report: bool,
    /// Refuse cases whose channels do not look like their names (exchanged, or one given twice) instead of warning
    #[arg(long, help_heading = "Input")]
    pub(crate) strict: bool,
    /// Skip the cases that the output folder has already
    #[arg(long = "continue", help_heading = "Output")]
    pub(crate) continue_: bool,
    /// Only the K-th of N equal shares of the cases, for several machines: 1/4, 2/4, …
    #[arg(long, value_name = "K/N", help_heading = "Output")]
    pub(crate) part: Option<Part>,
    /// One line of JSON per case on stdout instead of a table
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// Scans that are not prepared.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RawScans {
    /// The input is scans as they were scanned: prepare them first, as glioseg preprocess does, into OUT/prepared, and also write each
    /// label map on the grid of the T1 with contrast agent, into OUT/native
    #[arg(long, conflicts_with_all = ["channel", "part"], help_heading = "Raw scans")]
    pub(crate) raw: bool,
    /// A model that finds the brain in one image, such as HD-BET's, or `none`
    #[arg(
        long,
        value_name = "MODEL|none",
        requires = "raw",
        conflicts_with = "brain_mask",
        help_heading = "Raw scans"
    )]
    pub(crate) brain: Option<PathBuf>,
    /// A brain mask on the grid of one of the scans; for one study
    #[arg(long, value_name = "FILE", requires = "raw", help_heading = "Raw scans")]
    pub(crate) brain_mask: Option<PathBuf>,
    /// Space of the model's training: sri24 (BraTS until 2024), mni152 (since 2025), or native
    #[arg(long, value_name = "SPACE", default_value = "sri24", requires = "raw", help_heading = "Raw scans")]
    pub(crate) space: Space,
    /// A T1 image whose grid is the space [default: built in]
    #[arg(long, value_name = "FILE", requires = "raw", help_heading = "Raw scans")]
    pub(crate) atlas: Option<PathBuf>,
}

/// A model below $nnUNet_results, by nnU-Net's names.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ModelByName {
    /// Dataset of a model in $nnUNet_results, in the place of --model: its number or name, such as 137
    #[arg(long, value_name = "DATASET", conflicts_with = "model", help_heading = "Model by name")]
    pub(crate) dataset: Option<PathBuf>,
    /// The model's configuration [default: that of the dataset's only model]
    #[arg(long, value_name = "CONFIG", requires = "dataset", help_heading = "Model by name")]
    pub(crate) configuration: Option<String>,
    /// The model's trainer [default: nnUNetTrainer]
    #[arg(long, value_name = "NAME", requires = "dataset", help_heading = "Model by name")]
    pub(crate) trainer: Option<String>,
    /// The model's plans [default: nnUNetPlans]
    #[arg(long, value_name = "NAME", requires = "dataset", help_heading = "Model by name")]
    pub(crate) plans: Option<String>,
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(v) if v > 0.0 && v <= 1.0 => Ok(v),
        _ => Err("a fraction of the patch: more than 0, at most 1".into()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accumulation {
    /// nnU-Net's own
    Half,
    /// Twice the memory, no rounding at the corners of tiles
    Single,
}

/// Says in words what a path holds: an image, a dataset, plans, a model folder, a checkpoint, or another file of nnU-Net.
///
/// A file is told by its content, whatever it is called: also a Git LFS pointer, a web page that was saved as something else, an archive
/// or an image of another format, with what to do about it.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  glioseg info nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.pth"
)]
pub(crate) struct Info {
    /// Image (.nii, .nii.gz), dataset.json or its folder, plans.json, model folder, checkpoint (.pth, .safetensors, .model), a
    /// pickle of version 1 (plans.pkl, .model.pkl), fingerprint, folds, summary, postprocessing, debug.json, or any other file
    pub(crate) path: PathBuf,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Lists what can compute: the CPU with its precisions; NVIDIA's driver, GPUs and cuDNN with their versions, or what of it is missing and the
/// command that brings it.
///
/// cuDNN is looked for in the folders of GLIOSEG_CUDA_LIBS, then where the system has libraries, in $CUDA_PATH/lib64, and in the active
/// Python environment.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg devices")]
pub(crate) struct Devices {
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Rewrites a model folder of nnU-Net v1, v2 or glioseg as plans.json, dataset.json and safetensors, and checks every fold with a forward pass.
///
/// A converted model predicts the same bytes as its source; a model of version 1 keeps version 1's rules.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  glioseg convert Task500_BraTS2021/nnUNetTrainerV2BraTSRegions_DA4_BN_BD__nnUNetPlansv2.1 brats21-bl"
)]
pub(crate) struct Convert {
    /// Model folder to read
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// Folder to write; must be empty or not there
    #[arg(value_name = "DST")]
    pub(crate) target: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Measure what the multiply-add units and the tiles of this machine do at this moment, on all threads
    #[command(after_help = "Example:\n  glioseg bench peak")]
    Peak,
    /// Time every convolution of a network alone, forward or one of its gradients
    Kernels(BenchKernels),
    /// Time a forward pass of a full-size network with random weights
    Network(BenchNetwork),
    /// Time a training step: forward, loss with deep supervision, backward, optimiser
    Step(BenchStep),
    /// Time a whole case from files to file: a phantom of BraTS size, a full-size network with random weights
    Case(BenchCase),
}

/// The network to time.
#[derive(Debug, Args)]
pub(crate) struct BenchNet {
    /// nnunet (nnU-Net's 3D network for BraTS), bl, bl-l, bl-gn, bl-l-gn, bl-aa (the BraTS 2021 winner's), or a plans.json
    #[arg(long, default_value = "nnunet", value_name = "NAME|PLAN")]
    pub(crate) net: String,
    /// Configuration of the plans.json
    #[arg(long, default_value = "3d_fullres")]
    pub(crate) configuration: String,
    /// Voxels of the input along every axis [default: 128, or the plan's patch]
    #[arg(long, value_name = "VOXELS")]
    pub(crate) size: Option<usize>,
}

/// Times every convolution of a network; prints milliseconds, GFLOP/s and the share of the measured peak, a line of JSON per layer.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg bench kernels --pass weights --layer c32_c32/128")]
pub(crate) struct BenchKernels {
    #[command(flatten)]
    pub(crate) net: BenchNet,
    /// Which pass
    #[arg(long, value_enum, default_value = "forward")]
    pub(crate) pass: KernelPass,
    /// How convolutions are computed, where the layer allows it
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) algorithm: KernelAlgorithm,
    /// Only layers whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) layer: Option<String>,
    /// Samples
    #[arg(long, default_value_t = 1)]
    pub(crate) batch: usize,
    /// Timed passes; the least counts
    #[arg(long, default_value_t = 3)]
    pub(crate) runs: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KernelPass {
    /// The layer itself, with normalisation of its input and sums of its output
    Forward,
    /// The gradient of its input
    Data,
    /// The gradient of its weights
    Weights,
}

impl KernelPass {
    /// The word of the command line.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Data => "data",
            Self::Weights => "weights",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KernelAlgorithm {
    /// The fastest for the shape
    Auto,
    /// Tap by tap
    Direct,
    /// Tile by tile in the frequency domain
    Winograd,
    /// As a matrix product
    Gemm,
}

/// Times forward passes of a network with random weights; prints seconds, GFLOP/s and peak memory as a line of JSON.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg bench network --net nnunet --size 128 --runs 3 --layers")]
pub(crate) struct BenchNetwork {
    #[command(flatten)]
    pub(crate) net: BenchNet,
    #[command(flatten)]
    pub(crate) compute: Compute,
    /// Samples
    #[arg(long, default_value_t = 1)]
    pub(crate) batch: usize,
    /// Also the least time of every layer, a line each
    #[arg(long)]
    pub(crate) layers: bool,
    /// Timed passes after one to warm up; the median counts
    #[arg(long, default_value_t = 3)]
    pub(crate) runs: usize,
}

/// Times training steps on noise with nnU-Net's loss (Dice and cross entropy of regions at every resolution) and optimiser.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg bench step --size 64 --batch 2")]
pub(crate) struct BenchStep {
    #[command(flatten)]
    pub(crate) net: BenchNet,
    #[command(flatten)]
    pub(crate) compute: Compute,
    /// Samples
    #[arg(long, default_value_t = 2)]
    pub(crate) batch: usize,
    /// Timed steps after one to warm up; the median counts
    #[arg(long, default_value_t = 3)]
    pub(crate) runs: usize,
    /// Also print a line per layer; in f32 of the forward pass only
    #[arg(long)]
    pub(crate) layers: bool,
}

/// Times the prediction of a case of 240 x 240 x 155 voxels, with the seconds of reading, network and writing.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg bench case --runs 3")]
pub(crate) struct BenchCase {
    #[command(flatten)]
    pub(crate) compute: Compute,
    /// Average over mirrored tiles: eight times the work
    #[arg(long)]
    pub(crate) mirroring: bool,
    /// Timed predictions; the median counts
    #[arg(long, default_value_t = 1)]
    pub(crate) runs: usize,
}

/// Makes artificial BraTS-like cases: four channels of a head with a tumour, and their labels.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg phantom --cases 4 --out phantoms --size 96")]
pub(crate) struct Phantom {
    /// Number of cases
    #[arg(long, default_value_t = 4)]
    pub(crate) cases: usize,
    /// Folder: becomes an nnU-Net raw dataset (imagesTr, labelsTr, dataset.json), or BraTS folders
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Every seed makes another cohort; the same seed makes the same bytes
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Voxels along every axis
    #[arg(long, default_value_t = 96, value_parser = clap::value_parser!(u16).range(32..=512))]
    pub(crate) size: u16,
    /// How the files are laid out
    #[arg(long, value_enum, default_value = "nnunet")]
    pub(crate) layout: Layout,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Layout {
    /// imagesTr/CASE_0000.nii.gz …, labelsTr, dataset.json
    Nnunet,
    /// One folder per case: BraTS-PHANTOM-00000/BraTS-PHANTOM-00000-t1n.nii.gz …
    Brats,
}

/// The whole way without a download, in a few minutes: phantoms, plan, preparation, training, prediction of phantoms that the
/// training has not seen, scores.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Folder for what is made
    #[arg(long, default_value = "glioseg-demo")]
    pub(crate) out: PathBuf,
    /// Number of cases to predict
    #[arg(long, default_value_t = 3)]
    pub(crate) cases: usize,
    /// Number of cases to train on, a fifth of them to validate with
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) training_cases: usize,
    /// Epochs [default: those of the preset `demo`]
    #[arg(long, value_name = "N")]
    pub(crate) epochs: Option<usize>,
    /// Also maps of uncertainty and saved probabilities, so that the report shows how far the model can be believed
    #[arg(long)]
    pub(crate) uncertainty: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn predict_takes_several_models_files_and_folds() {
        let cli = Cli::try_parse_from([
            "glioseg", "predict", "-m", "a", "-m", "b", "-i", "x_t1.nii", "x_t2.nii", "-o", "out", "-f",
            "0,2", "--part", "2/3",
        ])
        .expect("valid");
        let Command::Predict(p) = cli.command else { panic!("predict") };
        assert_eq!((p.model.len(), p.input.len()), (2, 2));
        assert_eq!(p.folds, Some(Folds::These(vec![0, 2])));
        for wrong in [["--part", "0/3"], ["--part", "4/3"], ["--step", "0"], ["-f", "x"]] {
            let line = ["glioseg", "predict", "-m", "a", "-i", "b", "-o", "c", wrong[0], wrong[1]];
            assert!(Cli::try_parse_from(line).is_err(), "{wrong:?}");
        }
    }
}
