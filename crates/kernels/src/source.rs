//! What a convolution reads: one or two tensors, each with the normalisation and activation of the layer before.

/// Applied to every input value as it is read: `leaky(x * scale + shift)`. Zero padding comes after it.
#[derive(Debug, Clone, Copy)]
pub struct Prologue<'a> {
    /// Factor per sample and channel, `[n, c]`.
    pub scale: &'a [f32],
    /// Offset per sample and channel, `[n, c]`.
    pub shift: &'a [f32],
    /// Slope of the leaky ReLU below zero, at most 1; 1 for no activation.
    pub slope: f32,
}

/// One tensor `[n, channels, d, h, w]` a convolution reads; several are read as if concatenated along the channels.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The values.
    pub data: &'a [f32],
    /// Number of channels.
    pub channels: usize,
    /// Normalisation and activation to apply while reading.
    pub prologue: Option<Prologue<'a>>,
}

impl<'a> Source<'a> {
    /// A tensor read as it is.
    pub fn plain(data: &'a [f32], channels: usize) -> Self {
        Self { data, channels, prologue: None }
    }
}

/// One channel of one sample, with its prologue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plane<'a> {
    pub(crate) data: &'a [f32],
    /// `(scale, shift, slope)`.
    pub(crate) prologue: Option<(f32, f32, f32)>,
}

/// A range of voxels of every channel of a source, such as some of its planes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window<'a> {
    pub(crate) source: Source<'a>,
    /// The sample that counts as the first.
    pub(crate) sample: usize,
    /// Voxels of a channel in memory, and the first one that belongs to the window.
    pub(crate) voxels: usize,
    pub(crate) start: usize,
}

impl<'a> Window<'a> {
    /// The window that shows all of a source whose channels have `voxels` voxels.
    pub(crate) fn whole(source: Source<'a>, voxels: usize) -> Self {
        Self { source, sample: 0, voxels, start: 0 }
    }
}

/// `voxels` voxels of channel `channel` (counted over all windows) of sample `n`.
pub(crate) fn window_plane<'a>(windows: &[Window<'a>], n: usize, channel: usize, voxels: usize) -> Plane<'a> {
    let mut c = channel;
    for window in windows {
        let source = &window.source;
        if c < source.channels {
            let at = (window.sample + n) * source.channels + c;
            return Plane {
                data: &source.data[at * window.voxels + window.start..][..voxels],
                prologue: source.prologue.map(|p| (p.scale[at], p.shift[at], p.slope)),
            };
        }
        c -= source.channels;
    }
    unreachable!("channel {channel} of windows with fewer channels")
}

/// Checks lengths once per call.
pub(crate) fn check_sources(sources: &[Source<'_>], batch: usize, channels: usize, voxels: usize) {
    let found: usize = sources.iter().map(|s| s.channels).sum();
    assert_eq!(found, channels, "sources have {found} channels together, the convolution reads {channels}");
    for source in sources {
        assert_eq!(source.data.len(), batch * source.channels * voxels, "length of a source");
        if let Some(p) = source.prologue {
            assert_eq!(p.scale.len(), batch * source.channels, "length of a prologue's scale");
            assert_eq!(p.shift.len(), batch * source.channels, "length of a prologue's shift");
            assert!(p.slope <= 1.0, "slope {} of a leaky ReLU above 1", p.slope);
        }
    }
}

/// Channel `channel` (counted over all sources) of sample `n`.
pub(crate) fn plane<'a>(sources: &[Source<'a>], n: usize, channel: usize, voxels: usize) -> Plane<'a> {
    let mut c = channel;
    for source in sources {
        if c < source.channels {
            return window_plane(&[Window::whole(*source, voxels)], n, c, voxels);
        }
        c -= source.channels;
    }
    unreachable!("channel {channel} of sources with fewer channels")
}

/// The prologue on one value, as the references apply it.
pub(crate) fn apply_prologue(prologue: Option<(f32, f32, f32)>, x: f32) -> f32 {
    match prologue {
        None => x,
        Some((scale, shift, slope)) => {
            let y = x * scale + shift;
            if y > 0.0 { y } else { y * slope }
        }
    }
}
