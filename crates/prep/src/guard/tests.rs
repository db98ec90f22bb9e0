use super::space::{TrainingSpace, check_space};
use super::*;
use glioseg_volume::phantom::{CHANNELS, PhantomOptions, Tumour, phantom};
use glioseg_volume::testing::shared_data;

fn names() -> Vec<String> {
    CHANNELS.map(str::to_owned).to_vec()
}

/// The image with its channels in another order: channel `i` is what `order[i]` was.
fn reordered(volume: &Volume, order: [usize; 4]) -> Volume {
    let data = order.iter().flat_map(|&c| volume.channel(c)).copied().collect();
    Volume::new(4, data, volume.geometry.clone()).expect("four channels")
}

fn check(volume: &Volume, order: [usize; 4]) -> ChannelCheck {
    check_volume(&reordered(volume, order), &names())
}

/// Channels that are said to be exchanged, in ascending order.
fn exchanged(check: &ChannelCheck) -> Option<Vec<usize>> {
    match &check.doubts[..] {
        [Doubt::Exchanged { moved, .. }] => {
            let mut channels: Vec<usize> = moved.iter().map(|m| m.0).collect();
            channels.sort_unstable();
            Some(channels)
        }
        _ => None,
    }
}

/// Two channels that are exchanged, and the order that has them exchanged.
const SWAPS: [([usize; 2], [usize; 4]); 6] = [
    ([0, 1], [1, 0, 2, 3]),
    ([2, 3], [0, 1, 3, 2]),
    ([0, 2], [2, 1, 0, 3]),
    ([0, 3], [3, 1, 2, 0]),
    ([1, 2], [0, 2, 1, 3]),
    ([1, 3], [0, 3, 2, 1]),
];

/// Silent as it is; speaks of the right channels for every exchange and every channel given twice.
fn judge(volume: &Volume, enhancing: bool, what: &str) {
    let right = check(volume, [0, 1, 2, 3]);
    assert!(right.doubts.is_empty(), "{what}: {right:?}");
    for (channels, order) in SWAPS {
        let found = check(volume, order);
        if channels == [0, 1] && !enhancing {
            // Nothing tells these two apart.
            assert!(found.doubts.is_empty(), "{what}: {found:?}");
        } else {
            assert_eq!(exchanged(&found).as_deref(), Some(&channels[..]), "{what} {channels:?}: {found:?}");
        }
    }
    for from in 0..4 {
        let to = (from + 1) % 4;
        let mut order = [0, 1, 2, 3];
        order[to] = from;
        let found = check(volume, order);
        let (a, b) = (from.min(to), from.max(to));
        let twice =
            matches!(found.doubts[..], [Doubt::Duplicate { first, second, .. }] if (first, second) == (a, b));
        assert!(twice, "{what} {from} as {to}: {found:?}");
    }
}

fn made(tumour: Tumour, seed: u64, change: impl FnOnce(&mut PhantomOptions)) -> Volume {
    let mut options = PhantomOptions { tumour, seed, ..PhantomOptions::default() };
    change(&mut options);
    phantom(&options).expect("a phantom").channels
}

#[test]
fn phantoms_with_enhancing_tumours_are_judged_rightly() {
    for seed in 0..3 {
        judge(&made(Tumour::Enhancing, seed, |_| {}), true, &format!("enhancing {seed}"));
    }
    judge(&made(Tumour::Multifocal, 9, |_| {}), true, "multifocal");
    let coarse = |o: &mut PhantomOptions| {
        o.shape = [48; 3];
        o.spacing_mm = [3.5; 3];
    };
    judge(&made(Tumour::Enhancing, 5, coarse), true, "coarse");
}

#[test]
fn phantoms_without_enhancement_are_judged_as_far_as_that_is_possible() {
    judge(&made(Tumour::NonEnhancing, 1, |_| {}), false, "non-enhancing");
    judge(&made(Tumour::None, 2, |_| {}), false, "healthy");
    judge(&made(Tumour::Tiny, 3, |o| o.shape = [64; 3]), false, "tiny");
}

#[test]
fn noise_and_bias_raise_no_doubt() {
    for (noise, bias) in [(0.005, 0.0), (0.01, 0.3), (0.08, 0.12), (0.12, 0.25)] {
        for seed in 0..3 {
            let volume = made(Tumour::Any, seed, |o| {
                o.shape = [64; 3];
                o.spacing_mm = [2.5; 3];
                (o.noise, o.bias) = (noise, bias);
            });
            let right = check(&volume, [0, 1, 2, 3]);
            assert!(right.doubts.is_empty(), "noise {noise} bias {bias} seed {seed}: {right:?}");
        }
    }
}

#[test]
#[cfg_attr(not(real_cases), ignore = "needs two real cases, see CONTRIBUTING.md")]
fn real_cases_are_judged_rightly() {
    let real = shared_data("real");
    for case in ["TCGA-DU-7294", "TCGA-FG-6692"] {
        let files = CHANNELS.map(|c| real.join(format!("{case}/{case}_{c}.nii.gz")));
        let (volume, _) = glioseg_formats::nifti::read_stack(&files).expect("readable");
        judge(&volume, true, case);
    }
}

fn space(volume: &Volume, masked: bool) -> Option<String> {
    check_space(volume, &names(), &TrainingSpace { masked, spacing_mm: Some([1.0; 3]) })
}

/// The case inside a head that fills most of its image: air of noise, a skull of bright scalp.
fn unstripped(volume: &Volume) -> Volume {
    let mut head = volume.clone();
    let shape = volume.shape();
    let middle = shape.map(|n| (n as f64 - 1.0) / 2.0);
    let brightest = |c: usize| volume.channel(c).iter().copied().fold(0.0, f32::max);
    for c in 0..volume.channels {
        let (scalp, voxels) = (2.5 * brightest(c), head.geometry.voxels());
        for i in 0..voxels {
            let at = volume.geometry.position(i);
            let radius = (0..3).map(|a| ((at[a] as f64 - middle[a]) / middle[a]).powi(2)).sum::<f64>().sqrt();
            let value = &mut head.data[c * voxels + i];
            if *value == 0.0 {
                *value =
                    if (0.85..1.0).contains(&radius) { scalp } else { scalp * 0.01 * (1 + i % 7) as f32 };
            }
        }
    }
    head
}

#[test]
fn a_head_with_its_skull_is_told_from_a_brain() {
    let brain = made(Tumour::Enhancing, 0, |_| {});
    assert_eq!(space(&brain, true), None);
    let head = unstripped(&brain);
    let said = space(&head, true).expect("not stripped");
    for part in ["do not look skull-stripped", "the rim of the head is", "100 % of the voxels are not zero"] {
        assert!(said.contains(part), "{said}");
    }
    // A training without masks says nothing about the background, and nothing is known of other channels.
    assert!(!space(&head, false).expect("a bright rim").contains("not zero"));
    let other = ["ADC", "CT", "PET", "DWI"].map(str::to_owned);
    assert_eq!(check_space(&head, &other, &TrainingSpace { masked: true, spacing_mm: None }), None);
}

#[test]
#[cfg_attr(not(real_cases), ignore = "needs two real cases, see CONTRIBUTING.md")]
fn real_cases_are_told_from_a_study_as_scanned() {
    let real = shared_data("real");
    for case in ["TCGA-DU-7294", "TCGA-FG-6692"] {
        let files = CHANNELS.map(|c| real.join(format!("{case}/{case}_{c}.nii.gz")));
        let (volume, _) = glioseg_formats::nifti::read_stack(&files).expect("readable");
        assert_eq!(space(&volume, true), None, "{case}");
    }
    // The channels of a raw study have grids of their own: each is looked at alone.
    for (channel, file) in [("t1", "t1"), ("t1ce", "t1c"), ("flair", "fla")] {
        let path = real.join(format!("raw/TCGA-FG-6692/TCGA-FG-6692_raw_{file}.nii.gz"));
        let (volume, _) = glioseg_formats::nifti::read_stack(&[path]).expect("readable");
        let training = TrainingSpace { masked: false, spacing_mm: Some([1.0; 3]) };
        let said = check_space(&volume, &[channel.to_owned()], &training).expect("a bright rim");
        assert!(said.contains("the rim of the head is 2."), "{said}");
        assert!(said.contains("voxels are 5.5 x 0.9 x 0.9 mm, in the training 1 x 1 x 1 mm"), "{said}");
    }
}

#[test]
fn a_message_names_both_files_and_the_reason() {
    let volume = made(Tumour::Enhancing, 0, |_| {});
    let files = ["a.nii", "b.nii", "c.nii", "d.nii"].map(Path::new);
    let found = check(&volume, [0, 1, 3, 2]);
    let [message] = &found.messages(&names(), &files)[..] else { panic!("{found:?}") };
    let start = "the channels `t2` (c.nii) and `flair` (d.nii) look exchanged: the brightest of `t2` has mean rank 0.8";
    assert!(message.starts_with(start), "{message}");
    let found = check(&volume, [0, 0, 2, 3]);
    let message = &found.messages(&names(), &files)[0];
    assert_eq!(message, "the channels `t1` (a.nii) and `t1ce` (b.nii) are the same image (correlation 1)");
    // All four one place on.
    let found = check(&volume, [3, 0, 1, 2]);
    let message = &found.messages(&names(), &files)[0];
    assert!(
        message.starts_with("the channels look mixed up: ")
            && message.contains("`t1` (a.nii) looks like `flair`"),
        "{message}"
    );
}

#[test]
fn brightness_and_normalisation_do_not_matter_and_small_or_unknown_images_are_not_judged() {
    let volume = made(Tumour::Enhancing, 1, |_| {});
    let samples = |order: [usize; 4]| -> Vec<Vec<f32>> {
        let inside: Vec<usize> = (0..volume.geometry.voxels()).filter(|&i| volume.data[i] > 0.0).collect();
        let scales = [0.01, 3.0, 100.0, 0.5];
        order
            .iter()
            .map(|&c| inside.iter().map(|&i| volume.channel(c)[i] * scales[c] - 7.0).collect())
            .collect()
    };
    assert!(check_samples(&samples([0, 1, 2, 3]), &names()).doubts.is_empty());
    assert!(exchanged(&check_samples(&samples([1, 0, 2, 3]), &names())).is_some());
    let few: Vec<Vec<f32>> =
        samples([1, 0, 2, 3]).into_iter().map(|s| s[..MIN_VOXELS - 1].to_vec()).collect();
    assert_eq!(check_samples(&few, &names()), ChannelCheck::default());
    // Two channels alone, and channels that the check does not know.
    let [_, _, t2, flair] = &samples([0, 1, 2, 3])[..] else { panic!("four") };
    let pair = |a: &Vec<f32>, b: &Vec<f32>, names: [&str; 2]| {
        check_samples(&[a.clone(), b.clone()], &names.map(str::to_owned))
    };
    assert!(pair(t2, flair, ["T2w", "FLAIR"]).doubts.is_empty());
    assert!(exchanged(&pair(flair, t2, ["T2w", "FLAIR"])).is_some());
    assert!(pair(flair, t2, ["ADC", "CT"]).doubts.is_empty());
    assert_eq!(pair(flair, flair, ["ADC", "CT"]).doubts.len(), 1);
}
