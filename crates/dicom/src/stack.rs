//! Slices that make a volume, and where it lies.

use std::path::Path;
use std::sync::Arc;

use glioseg_diagnose::count;
use glioseg_volume::{Affine, Geometry, LabelMap, Turn, TurnRule, Volume, try_zeroed};
use rayon::prelude::*;

use crate::file::{Facts, Frame, Instance, Part};
use crate::grid::same_place;
use crate::{DicomError, pixels};

/// Distances of slices may differ by this part of the median, and by this many mm.
const EVEN: f64 = 0.01;
const EVEN_MM: f64 = 0.001;
/// Slices nearer than this part of the median lie at one place.
const ONE_PLACE: f64 = 0.05;
/// Directions of one stack agree so well.
const SAME_DIRECTION: f64 = 1e-3;
/// The line of the slices may lean by so many degrees from their normal.
const SHEAR_DEGREES: f64 = 0.5;
/// Slices may leave that line by so many mm.
const OFF_LINE_MM: f64 = 0.1;
/// A brain with cerebellum is higher than this.
const HEAD_MM: f64 = 120.0;

/// A slice with a place.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    pub instance: Arc<Instance>,
    pub frame: usize,
    pub position: [f64; 3],
    pub orientation: [f64; 6],
    pub spacing: [f64; 2],
    /// Place along the normal.
    along: f64,
}

impl Slice {
    /// # Errors
    /// [`DicomError::Attribute`] where the file does not tell the place.
    pub(crate) fn new(instance: &Arc<Instance>, frame: usize) -> Result<Self, DicomError> {
        let missing = |what: &str| DicomError::Attribute {
            path: instance.path.clone(),
            reason: format!("it does not tell where its slice lies: {what} is missing"),
        };
        let Frame { position, orientation, spacing, .. } = &instance.frames[frame];
        let position = position.ok_or_else(|| missing("ImagePositionPatient (0020,0032)"))?;
        let orientation = orientation.ok_or_else(|| missing("ImageOrientationPatient (0020,0037)"))?;
        let spacing = spacing.ok_or_else(|| missing("PixelSpacing (0028,0030)"))?;
        let unit = |d: &[f64]| (dot3(d, d).sqrt() - 1.0).abs() < 1e-2;
        let (row, column) = orientation.split_at(3);
        if !unit(row) || !unit(column) || dot3(row, column).abs() > 1e-2 {
            let reason = format!(
                "its rows and columns have no right angle: ImageOrientationPatient is {orientation:?}"
            );
            return Err(DicomError::Attribute { path: instance.path.clone(), reason });
        }
        if spacing.iter().any(|&s| s <= 0.0) {
            let reason = format!("its pixels have no size: PixelSpacing is {spacing:?}");
            return Err(DicomError::Attribute { path: instance.path.clone(), reason });
        }
        let along = dot3(&position, &normal(&orientation));
        Ok(Self { instance: Arc::clone(instance), frame, position, orientation, spacing, along })
    }

    pub(crate) fn part(&self) -> &Part {
        &self.instance.frames[self.frame].part
    }

    pub(crate) fn size(&self) -> (usize, usize) {
        (self.instance.pixels.rows, self.instance.pixels.columns)
    }

    /// The same directions and sizes of pixels, so that both can lie in one stack.
    pub(crate) fn is_parallel_to(&self, other: &Self) -> bool {
        let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= SAME_DIRECTION);
        near(&self.orientation, &other.orientation) && near(&self.spacing, &other.spacing)
    }
}

fn dot3(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Direction in which slices follow each other: that of a row times that of a column.
fn normal(orientation: &[f64; 6]) -> [f64; 3] {
    let [a, b, c, d, e, f] = *orientation;
    let cross = [b * f - c * e, c * d - a * f, a * e - b * d];
    let length = dot3(&cross, &cross).sqrt();
    cross.map(|v| v / length)
}

/// A volume: slices of one size at even distances.
#[derive(Debug, Clone)]
pub struct Stack {
    /// The number of its series, and of the stack where there are several: `8`, `8.1`.
    pub name: String,
    /// Its grid, in nnU-Net's and NIfTI's world (R, A and S are positive). Slices are in the order of their places along the
    /// normal, which for axial images is from the feet to the head.
    pub geometry: Geometry,
    /// What tells its contrast: that of its first slice, since a series may hold several echoes.
    pub facts: Facts,
    /// What looks odd about it, in words.
    pub notes: Vec<String>,
    slices: Vec<Slice>,
}

impl Stack {
    /// Puts slices in order and finds their grid; `series` names them in messages.
    ///
    /// # Errors
    /// [`DicomError::RepeatedPosition`], [`DicomError::MissingSlices`], [`DicomError::UnevenSpacing`], [`DicomError::Sheared`],
    /// [`DicomError::Place`].
    pub(crate) fn new(name: String, mut slices: Vec<Slice>, series: &str) -> Result<Self, DicomError> {
        slices
            .sort_by(|a, b| a.along.total_cmp(&b.along).then_with(|| a.instance.path.cmp(&b.instance.path)));
        check_distances(&slices, series)?;
        let (first, last) = (&slices[0], &slices[slices.len() - 1]);
        let step: [f64; 3] =
            std::array::from_fn(|i| (last.position[i] - first.position[i]) / (slices.len() - 1) as f64);
        check_line(&slices, step, series)?;
        let [row, column] = [&first.orientation[..3], &first.orientation[3..]];
        let lps: [[f64; 4]; 3] = std::array::from_fn(|w| {
            [row[w] * first.spacing[1], column[w] * first.spacing[0], step[w], first.position[w]]
        });
        let rows = [lps[0].map(|v| -v), lps[1].map(|v| -v), lps[2]];
        let (height, width) = first.size();
        let geometry = Geometry::from_affine([slices.len(), height, width], Affine::from_rows(rows))
            .map_err(|error| DicomError::Place { series: series.to_owned(), reason: error.to_string() })?;
        let mut notes = Vec::new();
        let extent = dot3(&step, &step).sqrt() * slices.len() as f64;
        if extent < HEAD_MM {
            notes.push(format!(
                "its {} span {extent:.0} mm only: some may be missing at an end",
                count(slices.len(), "slice")
            ));
        }
        if slices.iter().any(|s| s.instance.lossy) {
            notes.push("its pixels were compressed with losses".into());
        }
        if slices.iter().any(|s| s.instance.burned_in) {
            notes.push("its pixels hold writing (BurnedInAnnotation)".into());
        }
        if slices.iter().any(|s| s.instance.pixels.inverted) {
            notes.push("small values are bright (MONOCHROME1): it is inverted".into());
        }
        let mut facts = first.instance.facts.clone();
        facts.echo_time = first.instance.frames[first.frame].echo_time.or(facts.echo_time);
        Ok(Self { name, geometry, facts, notes, slices })
    }

    /// The files, in the order of the slices; a file of many frames once.
    pub fn files(&self) -> Vec<&Path> {
        let mut files: Vec<&Path> = Vec::new();
        for slice in &self.slices {
            if !files.contains(&slice.instance.path.as_path()) {
                files.push(&slice.instance.path);
            }
        }
        files
    }

    /// Identity of its series (`SeriesInstanceUID`).
    pub fn series_uid(&self) -> &str {
        &self.slices[0].instance.series
    }

    /// Identity of its study (`StudyInstanceUID`).
    pub fn study_uid(&self) -> &str {
        &self.slices[0].instance.study
    }

    /// The frame of reference that its positions are told in: stacks with the same one lie in one world.
    pub fn frame_of_reference(&self) -> Option<&str> {
        self.slices[0].instance.frame_of_reference.as_deref()
    }

    /// Its slices, in the order of their places.
    pub(crate) fn slices(&self) -> &[Slice] {
        &self.slices
    }

    /// Whether its pixels were compressed with losses.
    pub(crate) fn is_lossy(&self) -> bool {
        self.slices.iter().any(|s| s.instance.lossy)
    }

    /// Whether a grid has this volume's voxels, in whatever order of the axes.
    pub fn has_grid(&self, grid: &Geometry) -> bool {
        same_place(&grid.turned(&self.turn_of(grid)), &self.geometry)
    }

    fn turn_of(&self, grid: &Geometry) -> Turn {
        let rule = TurnRule::Nibabel;
        grid.turn_to_ras(rule).then(&self.geometry.turn_to_ras(rule).inverse())
    }

    /// A label map in the order of the slices.
    ///
    /// # Errors
    /// [`DicomError::OtherGrid`] if it does not lie on the volume's grid.
    pub(crate) fn on_own_grid(&self, map: LabelMap) -> Result<LabelMap, DicomError> {
        if !self.has_grid(&map.geometry) {
            return Err(DicomError::OtherGrid {
                map: in_words(&map.geometry),
                series: self.name.clone(),
                volume: in_words(&self.geometry),
            });
        }
        let turn = self.turn_of(&map.geometry);
        Ok(map.turned(&turn))
    }

    /// Reads the pixels, as stored times slope plus intercept.
    ///
    /// # Errors
    /// [`DicomError::Read`], [`DicomError::Damaged`], [`DicomError::Syntax`] with the file; [`DicomError::Place`] if it does not fit
    /// into the memory.
    pub fn read(&self) -> Result<Volume, DicomError> {
        let [_, height, width] = self.geometry.shape;
        let Some(mut data) = try_zeroed::<f32>(self.geometry.voxels()) else {
            let reason = format!("its {} voxels do not fit into the memory", self.geometry.voxels());
            return Err(DicomError::Place { series: format!("series {}", self.name), reason });
        };
        let mut files: Vec<Task<'_>> = Vec::new();
        for (slice, voxels) in self.slices.iter().zip(data.chunks_mut(height * width)) {
            match files.iter_mut().find(|task| Arc::ptr_eq(task.instance, &slice.instance)) {
                Some(task) => {
                    task.frames.push(slice.frame);
                    task.places.push(voxels);
                }
                None => files.push(Task {
                    instance: &slice.instance,
                    frames: vec![slice.frame],
                    places: vec![voxels],
                }),
            }
        }
        files.into_par_iter().try_for_each(|mut task| {
            pixels::read(task.instance, &task.frames, |i, values| task.places[i].copy_from_slice(values))
        })?;
        Volume::new(1, data, self.geometry.clone()).map_err(|error| DicomError::Place {
            series: format!("series {}", self.name),
            reason: error.to_string(),
        })
    }
}

/// A grid as messages tell it: `24 x 88 x 72 voxels of 5.5 x 2 x 2 mm, first at -49.5, -91.2, -71.8`.
fn in_words(grid: &Geometry) -> String {
    let list = |values: [f64; 3], digits: usize| values.map(|v| format!("{v:.digits$}"));
    let shape = grid.shape.map(|n| n.to_string()).join(" x ");
    let spacing = list(grid.spacing, 3).join(" x ");
    format!(
        "{shape} voxels of {spacing} mm, the first at {}",
        list(grid.affine().translation(), 1).join(", ")
    )
}

/// Frames of a file and where their values go.
struct Task<'a> {
    instance: &'a Arc<Instance>,
    frames: Vec<usize>,
    places: Vec<&'a mut [f32]>,
}

fn check_distances(slices: &[Slice], series: &str) -> Result<(), DicomError> {
    let gaps: Vec<f64> = slices.windows(2).map(|pair| pair[1].along - pair[0].along).collect();
    let mut sorted = gaps.clone();
    sorted.sort_by(f64::total_cmp);
    // Of positions that repeat, half of the distances or more are 0.
    let most = sorted.last().copied().unwrap_or_default();
    let apart: Vec<f64> = sorted.iter().copied().filter(|&gap| gap > ONE_PLACE * most).collect();
    let median = apart.get(apart.len().saturating_sub(1) / 2).copied().unwrap_or_default();
    if let Some(at) = gaps.iter().position(|&gap| gap <= ONE_PLACE * median) {
        return Err(DicomError::RepeatedPosition {
            series: series.to_owned(),
            position_mm: slices[at].along,
            first: slices[at].instance.path.clone(),
            second: slices[at + 1].instance.path.clone(),
        });
    }
    let near = |gap: f64, times: f64| (gap - times * median).abs() <= times * (EVEN * median + EVEN_MM);
    if gaps.iter().all(|&gap| near(gap, 1.0)) {
        return Ok(());
    }
    let times = |gap: f64| (gap / median).round().max(1.0);
    if gaps.iter().all(|&gap| near(gap, times(gap))) {
        let at = gaps.iter().position(|&gap| times(gap) > 1.0).unwrap_or(0);
        return Err(DicomError::MissingSlices {
            series: series.to_owned(),
            missing: gaps.iter().map(|&gap| times(gap) as usize - 1).sum(),
            after_mm: slices[at].along,
        });
    }
    Err(DicomError::UnevenSpacing {
        series: series.to_owned(),
        least_mm: sorted.first().copied().unwrap_or_default(),
        most_mm: most,
    })
}

/// Slices follow each other along their normal, in a straight line.
fn check_line(slices: &[Slice], step: [f64; 3], series: &str) -> Result<(), DicomError> {
    let first = &slices[0];
    let cosine = dot3(&step, &normal(&first.orientation)) / dot3(&step, &step).sqrt();
    let degrees = cosine.clamp(-1.0, 1.0).acos().to_degrees();
    if degrees > SHEAR_DEGREES {
        return Err(DicomError::Sheared { series: series.to_owned(), degrees });
    }
    let off = slices.iter().enumerate().map(|(k, slice)| {
        let miss: [f64; 3] =
            std::array::from_fn(|i| slice.position[i] - first.position[i] - step[i] * k as f64);
        dot3(&miss, &miss).sqrt()
    });
    let most = off.fold(0.0, f64::max);
    let allowed = OFF_LINE_MM.max(2.0 * EVEN * dot3(&step, &step).sqrt() * slices.len() as f64);
    if most > allowed {
        let reason = format!("its slices are shifted against each other by up to {most:.2} mm");
        return Err(DicomError::Place { series: series.to_owned(), reason });
    }
    Ok(())
}
