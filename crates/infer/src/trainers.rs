//! The trainers that come with nnU-Net and take the network of the plans.

/// Names of the classes, of version 2.8.1.
///
/// # Source
/// nnU-Net v2, `nnunetv2.training.nnUNetTrainer`; without those of Primus, which make a network of their own.
const TRAINERS: &str = "
    nnUNetTrainer nnUNetTrainerAdam nnUNetTrainerAdam1en3 nnUNetTrainerAdam3en4 nnUNetTrainerAdan
    nnUNetTrainerAdan1en1 nnUNetTrainerAdan1en3 nnUNetTrainerAdan3en4 nnUNetTrainerAdanCosAnneal
    nnUNetTrainerBN nnUNetTrainerBenchmark_5epochs nnUNetTrainerBenchmark_5epochs_noDataLoading
    nnUNetTrainerCELoss nnUNetTrainerCELoss_5epochs nnUNetTrainerCosAnneal nnUNetTrainerDA5
    nnUNetTrainerDA5Segord0 nnUNetTrainerDA5_10epochs nnUNetTrainerDA5ord0
    nnUNetTrainerDiceCELoss_noSmooth nnUNetTrainerDiceLoss nnUNetTrainerDiceTopK10Loss nnUNetTrainerNoDA
    nnUNetTrainerNoDeepSupervision nnUNetTrainerNoMirroring nnUNetTrainerTopk10Loss
    nnUNetTrainerTopk10LossLS01 nnUNetTrainerVanillaAdam nnUNetTrainerVanillaAdam1en3
    nnUNetTrainerVanillaAdam3en4 nnUNetTrainer_100epochs nnUNetTrainer_10epochs nnUNetTrainer_1epoch
    nnUNetTrainer_2000epochs nnUNetTrainer_2000epochs_NoMirroring nnUNetTrainer_20epochs
    nnUNetTrainer_250epochs nnUNetTrainer_250epochs_NoMirroring nnUNetTrainer_4000epochs
    nnUNetTrainer_4000epochs_NoMirroring nnUNetTrainer_500epochs nnUNetTrainer_50epochs
    nnUNetTrainer_5epochs nnUNetTrainer_750epochs nnUNetTrainer_8000epochs
    nnUNetTrainer_8000epochs_NoMirroring nnUNetTrainer_DASegOrd0 nnUNetTrainer_DASegOrd0_NoMirroring
    nnUNetTrainer_noDummy2DDA nnUNetTrainer_onlyMirror01 nnUNetTrainer_onlyMirror01_1500ep
    nnUNetTrainer_onlyMirror01_DA5 nnUNetTrainer_onlyMirror01_DASegOrd0
    nnUNetTrainer_probabilisticOversampling nnUNetTrainer_probabilisticOversampling_010
    nnUNetTrainer_probabilisticOversampling_033 nnUNetTrainer_warmup nnUNet_Trainer_BS8
";

/// Whether this is a class of nnU-Net's own.
pub(crate) fn is_trainer(name: &str) -> bool {
    TRAINERS.split_ascii_whitespace().any(|known| known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trainers_of_nnunet_are_known_and_others_are_not() {
        for name in ["nnUNetTrainer", "nnUNetTrainerDA5", "nnUNetTrainer_250epochs", "nnUNet_Trainer_BS8"] {
            assert!(is_trainer(name), "{name}");
        }
        for name in ["", "nnUNetTrainerMyOwn", "nnUNetTrainer_", "nnUNet_Primus_M_Trainer"] {
            assert!(!is_trainer(name), "{name}");
        }
    }
}
