//! From a program to launches and convolutions over one memory.
//!
//! The list is made twice by the same code: first only to see when every buffer is used, then, when these have their places, for
//! good. So a buffer's life cannot differ from its use.

mod attention;
mod backward;
mod forward;

use std::collections::{BTreeSet, HashMap};

use glioseg_cuda::launch::{Form, Map, NormRule};
use glioseg_cuda::{Convolution, Element, Launch, Product, Slice};

use super::layout::{Layout, Padded, Region, channels_of};
use crate::NetError;
use crate::program::{BufferId, Lifetimes, MapId, MapShape, ParameterId, Placement, Program};

/// Bytes of a unit in which places are counted; [`Lifetimes`] aligns to 16 of them.
const UNIT: usize = 16;

/// One thing that a machine does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Work {
    /// A kernel.
    Launch(Launch),
    /// A convolution.
    Product(Product),
    /// Zeros.
    Clear(Slice),
}

/// Factors of dropout of a block.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mask {
    /// The step of the program.
    pub(super) step: usize,
    /// Probability.
    pub(super) p: f64,
    /// `[n, channels]`.
    pub(super) at: Slice,
    /// Values.
    pub(super) rows: usize,
}

/// What belongs to one head.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OfHead {
    /// Logits.
    pub(super) logits: glioseg_cuda::launch::Logits,
    /// As long as the logits: probabilities, then the gradient.
    pub(super) gradient: Slice,
    /// Labels or regions.
    pub(super) target: Slice,
    pub(super) part: Slice,
    pub(super) sums: Slice,
    pub(super) terms: Slice,
}

/// Places that hold something from the first step to the last.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fixed {
    /// The patch, in f32.
    pub(super) patch: Slice,
    /// Matrices, vectors and running statistics in f32.
    pub(super) weights: [Slice; 3],
    /// Matrices as convolutions read them.
    pub(super) copy: Slice,
    /// Gradients of matrices and vectors; empty outside training.
    pub(super) gradients: [Slice; 2],
    /// What an optimiser keeps of matrices and vectors, twice; empty outside training.
    pub(super) kept: [[Slice; 2]; 2],
    /// Losses of all heads, in f64.
    pub(super) losses: Slice,
    /// Factor of the gradients, and whether weights are changed.
    pub(super) control: Slice,
    /// Length of the gradients, in f64.
    pub(super) norm: Slice,
    /// Parts of that length, in f64.
    pub(super) squares: Slice,
    /// Constants of the optimiser.
    pub(super) hyper: Slice,
}

/// A program as a machine runs it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lowered {
    /// Bytes of the memory.
    pub(super) bytes: usize,
    pub(super) layout: Layout,
    pub(super) fixed: Fixed,
    pub(super) heads: Vec<OfHead>,
    pub(super) masks: Vec<Mask>,
    pub(super) forward: Vec<Work>,
    pub(super) backward: Vec<Work>,
    /// Parameters that have a gradient.
    pub(super) trained: BTreeSet<ParameterId>,
}

impl Lowered {
    /// Lowers a program whose maps are in `element`.
    ///
    /// # Errors
    /// [`NetError::Spec`] if kernels lack something.
    pub(super) fn new(program: &Program, element: Element) -> Result<Self, NetError> {
        let mut first = Builder::new(program, element, None);
        first.all()?;
        let mut second = Builder::new(program, element, Some(first.lifetimes.place()));
        second.all()
    }

    /// All convolutions, in order.
    pub(super) fn convolutions(&self) -> impl Iterator<Item = &Convolution> {
        self.forward.iter().chain(&self.backward).filter_map(|work| match work {
            Work::Product(product) => Some(&product.convolution),
            _ => None,
        })
    }
}

/// A map in the making: its buffer, and what a [`Map`] has.
#[derive(Debug, Clone, Copy)]
struct Buffer {
    id: BufferId,
    channels: Padded,
    size: [usize; 3],
}

/// A normalisation in the making, for its gradient.
#[derive(Debug, Clone, Copy)]
struct Made {
    y: Buffer,
    form: BufferId,
    total: BufferId,
    mask: Option<BufferId>,
    /// The same without places, to be completed by [`Builder::form`].
    rule: NormRule,
    affine: Option<[ParameterId; 2]>,
    biases: [Option<ParameterId>; 3],
    kept: Option<[ParameterId; 2]>,
    slope: f32,
}

struct Builder<'a> {
    program: &'a Program,
    element: Element,
    layout: Layout,
    lifetimes: Lifetimes,
    lens: Vec<usize>,
    placement: Option<Placement>,
    /// The present piece of work.
    time: usize,
    work: Vec<Work>,
    maps: HashMap<MapId, Buffer>,
    /// Joined maps by their parts.
    joined: HashMap<[MapId; 2], Buffer>,
    /// For every map the joined ones that it is a part of, with its first channel.
    joins: HashMap<MapId, Vec<([MapId; 2], usize)>>,
    /// What the steps' epilogues made, by step; two where the activation comes first.
    made: HashMap<usize, Vec<Made>>,
    attentions: HashMap<usize, attention::Kept>,
    gradients: HashMap<MapId, Buffer>,
    masks: Vec<(usize, f64, BufferId, usize)>,
    trained: BTreeSet<ParameterId>,
    weights: [BufferId; 3],
    copy: BufferId,
    of_weights: [BufferId; 2],
    logits: HashMap<MapId, [BufferId; 2]>,
}

impl<'a> Builder<'a> {
    fn new(program: &'a Program, element: Element, placement: Option<Placement>) -> Self {
        let layout = Layout::new(program);
        let mut builder = Self {
            program,
            element,
            layout,
            lifetimes: Lifetimes::default(),
            lens: vec![],
            placement,
            time: 0,
            work: vec![],
            maps: HashMap::new(),
            joined: HashMap::new(),
            joins: HashMap::new(),
            made: HashMap::new(),
            attentions: HashMap::new(),
            gradients: HashMap::new(),
            masks: vec![],
            trained: BTreeSet::new(),
            weights: [BufferId::default(); 3],
            copy: BufferId::default(),
            of_weights: [BufferId::default(); 2],
            logits: HashMap::new(),
        };
        let [matrices, vectors, kept] = builder.layout.len;
        builder.weights = [matrices, vectors, kept].map(|len| builder.buffer(len * 4));
        builder.copy = builder.buffer(matrices * element.bytes());
        let training = usize::from(program.mode.is_training());
        builder.of_weights =
            [matrices * element.bytes(), vectors * 4].map(|bytes| builder.buffer(bytes * training));
        builder
    }

    fn buffer(&mut self, bytes: usize) -> BufferId {
        self.lens.push(bytes);
        self.lifetimes.add(bytes.div_ceil(UNIT))
    }

    /// A buffer's place, which is used now.
    fn at(&mut self, id: BufferId) -> Slice {
        self.lifetimes.touch(id, self.time);
        let start = self.placement.as_ref().map_or(0, |placement| placement.range(id).start);
        Slice::new(start * UNIT, self.lens[id.index()])
    }

    fn push(&mut self, work: Work) {
        self.work.push(work);
        self.time += 1;
    }

    fn launch(&mut self, launch: Launch) {
        self.push(Work::Launch(launch));
    }

    /// A buffer for a map of so many channels.
    fn map_buffer(&mut self, channels: Padded, size: [usize; 3]) -> Buffer {
        let values = self.program.batch * channels.places * size.iter().product::<usize>();
        Buffer { id: self.buffer(values * self.element.bytes()), channels, size }
    }

    fn shaped(&mut self, MapShape { channels, size }: MapShape) -> Buffer {
        self.map_buffer(Padded::new(channels), size)
    }

    /// The buffer of a map of the program.
    fn map_of(&mut self, id: MapId) -> Buffer {
        if let Some(&buffer) = self.maps.get(&id) {
            return buffer;
        }
        let buffer = self.map_buffer(channels_of(self.program, id), self.program.map(id).size);
        self.maps.insert(id, buffer);
        buffer
    }

    /// The buffer of the gradient of a map of the program.
    fn gradient_of(&mut self, id: MapId) -> Buffer {
        if let Some(&buffer) = self.gradients.get(&id) {
            return buffer;
        }
        let buffer = self.map_buffer(channels_of(self.program, id), self.program.map(id).size);
        self.gradients.insert(id, buffer);
        buffer
    }

    fn map(&mut self, buffer: Buffer) -> Map {
        Map {
            at: self.at(buffer.id),
            batch: self.program.batch,
            size: buffer.size,
            channels: buffer.channels.places,
            element: self.element,
        }
    }

    /// A parameter in f32.
    fn parameter(&mut self, id: ParameterId) -> Slice {
        let place = self.layout.places[id.0].clone();
        self.at(self.weights[place.region as usize]).part(place.range.start * 4, place.range.len() * 4)
    }

    /// A matrix as convolutions read it.
    fn matrix(&mut self, id: ParameterId) -> Slice {
        let (range, bytes) = (self.layout.places[id.0].range.clone(), self.element.bytes());
        self.at(self.copy).part(range.start * bytes, range.len() * bytes)
    }

    /// Where the gradient of a parameter goes.
    fn of_parameter(&mut self, id: ParameterId) -> Slice {
        self.trained.insert(id);
        let place = self.layout.places[id.0].clone();
        let (which, bytes) = match place.region {
            Region::Matrices => (0, self.element.bytes()),
            Region::Vectors => (1, 4),
            Region::Kept => unreachable!("running statistics have no gradient"),
        };
        self.at(self.of_weights[which]).part(place.range.start * bytes, place.range.len() * bytes)
    }

    /// What kernels are told of a normalisation.
    fn form(&mut self, made: &Made) -> Form {
        let mut vector = |id: Option<ParameterId>| id.map(|id| self.parameter(id));
        let gamma = vector(made.affine.map(|[gamma, _]| gamma));
        let beta = vector(made.affine.map(|[_, beta]| beta));
        let biases = made.biases.map(&mut vector);
        let kept = made.kept.map(|kept| kept.map(|id| self.parameter(id)));
        Form {
            rule: made.rule,
            real: made.y.channels.real,
            gamma,
            beta,
            biases,
            mask: made.mask.map(|mask| self.at(mask)),
            kept,
            form: self.at(made.form),
            total: self.at(made.total),
        }
    }

    fn product(&mut self, convolution: Convolution, operands: [Slice; 3]) {
        self.push(Work::Product(Product::new(convolution, operands)));
    }

    fn all(&mut self) -> Result<Lowered, NetError> {
        let program = self.program;
        let training = program.mode.is_training();
        let patch = self.buffer(program.values(Program::INPUT) * 4);
        let heads = program.heads.len();
        let [matrices, vectors, _] = self.layout.len;
        let squares = [matrices, vectors].map(Launch::square_parts).iter().sum::<usize>()
            + 2 * program.parameters.len();
        let small = [heads.max(1) * 24, 8, 8, squares * 8, 32].map(|bytes| self.buffer(bytes));
        let kept =
            [0, 1].map(|_| [matrices, vectors].map(|len| self.buffer(len * 4 * usize::from(training))));
        self.run_forward(patch)?;
        let forward = std::mem::take(&mut self.work);
        let heads = self.losses();
        if training {
            self.run_backward();
        }
        let backward = std::mem::take(&mut self.work);
        // What lives through all of it: used at the first and at the last piece of work.
        self.time += 1;
        let mut fixed = Fixed {
            patch: self.at(patch),
            weights: [Slice::new(0, 0); 3],
            copy: Slice::new(0, 0),
            gradients: [Slice::new(0, 0); 2],
            kept: [[Slice::new(0, 0); 2]; 2],
            losses: Slice::new(0, 0),
            control: Slice::new(0, 0),
            norm: Slice::new(0, 0),
            squares: Slice::new(0, 0),
            hyper: Slice::new(0, 0),
        };
        for time in [0, self.time] {
            self.time = time;
            fixed.weights = self.weights.map(|id| self.at(id));
            fixed.copy = self.at(self.copy);
            fixed.gradients = self.of_weights.map(|id| self.at(id));
            fixed.kept = kept.map(|kept| kept.map(|id| self.at(id)));
            [fixed.losses, fixed.control, fixed.norm, fixed.squares, fixed.hyper] =
                small.map(|id| self.at(id));
        }
        let masks = std::mem::take(&mut self.masks);
        let masks = masks.into_iter().map(|(step, p, id, rows)| {
            self.time = 0;
            Mask { step, p, at: self.at(id), rows }
        });
        Ok(Lowered {
            masks: masks.collect(),
            bytes: self.placement.as_ref().map_or(0, |placement| placement.len * UNIT),
            layout: self.layout.clone(),
            fixed,
            heads,
            forward,
            backward,
            trained: std::mem::take(&mut self.trained),
        })
    }
}
