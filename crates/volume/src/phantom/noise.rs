//! Random numbers as functions of (seed, stream, place), so that no order of evaluation and no thread count can change
//! them. Only additions, multiplications and square roots are used, which are the same on every machine.

/// A point or a vector, in x, y, z.
pub(crate) type V3 = [f32; 3];

pub(crate) fn add(a: V3, b: V3) -> V3 {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

pub(crate) fn sub(a: V3, b: V3) -> V3 {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

pub(crate) fn scale(a: V3, s: f32) -> V3 {
    a.map(|v| v * s)
}

pub(crate) fn dot(a: V3, b: V3) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub(crate) fn length(a: V3) -> f32 {
    dot(a, a).sqrt()
}

/// A source of random numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noise(u64);

/// The finalizer of `SplitMix64`.
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Noise {
    /// The numbers of `stream` under `seed`; streams are independent of each other.
    pub(crate) const fn new(seed: u64, stream: u64) -> Self {
        Self(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ mix(stream.wrapping_add(0x632b_e59b_d9b4_e019))))
    }

    const fn bits(self, index: u64) -> u64 {
        mix(self.0.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Uniform in `low..high`.
    pub(crate) fn uniform(self, index: u64, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.bits(index) >> 40) as f32 / 16_777_216.0)
    }

    /// Nearly normal with mean 0 and deviation 1: the sum of four uniform numbers (within 3.5 deviations).
    pub(crate) fn normal(self, index: u64) -> f32 {
        let bits = self.bits(index);
        let sum: u64 = (0..4).map(|i| (bits >> (16 * i)) & 0xffff).sum();
        (sum as f32 / 65536.0 - 2.0) * 1.732_050_8
    }

    /// Smooth noise with one cell per unit: about -0.7 to 0.7, zero at the lattice points (Perlin's gradient noise).
    pub(crate) fn smooth(self, p: V3) -> f32 {
        let cell = p.map(f32::floor);
        let f = sub(p, cell);
        let lattice = cell.map(|v| v as i64);
        let w = f.map(|t| t * t * t * (t * (t * 6.0 - 15.0) + 10.0));
        let corner = |dx: u8, dy: u8, dz: u8| {
            let [x, y, z] = [(lattice[0], dx), (lattice[1], dy), (lattice[2], dz)]
                .map(|(base, d)| base.wrapping_add(i64::from(d)).cast_unsigned());
            let index = x.wrapping_mul(0x8da6_b343).wrapping_add(y.wrapping_mul(0xd816_3841_0000));
            let bits = self.bits(index.wrapping_add(z.wrapping_mul(0xcb1a_b31f_0000_0001)));
            let (gx, gy, gz) = (f[0] - f32::from(dx), f[1] - f32::from(dy), f[2] - f32::from(dz));
            // One of the twelve directions to the edges of a cube.
            let (u, v) = match bits >> 62 {
                0 => (gx, gy),
                1 => (gy, gz),
                2 => (gz, gx),
                _ => [(gx, gy), (gy, gz), (gz, gx), (gx, gy)][(bits >> 60 & 3) as usize],
            };
            (if bits & 1 == 0 { u } else { -u }) + (if bits & 2 == 0 { v } else { -v })
        };
        let lerp = |a: f32, b: f32, t: f32| a + (b - a) * t;
        let along_x = |dy, dz| lerp(corner(0, dy, dz), corner(1, dy, dz), w[0]);
        let along_y = |dz| lerp(along_x(0, dz), along_x(1, dz), w[1]);
        lerp(along_y(0), along_y(1), w[2])
    }

    /// Smooth noise of `octaves` layers, each twice as fine and half as strong as the one before.
    pub(crate) fn layered(self, p: V3, octaves: u32) -> f32 {
        let (mut sum, mut p, mut strength) = (0.0, p, 1.0);
        for octave in 0..octaves {
            sum += strength * Self(mix(self.0 ^ u64::from(octave))).smooth(p);
            // The shift keeps the zeros of the layers apart.
            p = add(scale(p, 2.0), [0.37, 0.61, 0.13]);
            strength *= 0.5;
        }
        sum
    }

    /// Three smooth noises as a vector.
    pub(crate) fn vector(self, p: V3) -> V3 {
        [1, 2, 3].map(|k| Self(mix(self.0 ^ (k << 8))).smooth(p))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_numbers_have_mean_0_and_deviation_1() {
        let noise = Noise::new(7, 1);
        let n = 100_000;
        let (mut sum, mut squares) = (0.0, 0.0);
        for i in 0..n {
            let v = f64::from(noise.normal(i));
            sum += v;
            squares += v * v;
        }
        assert!((sum / n as f64).abs() < 0.02, "mean {}", sum / n as f64);
        assert!((squares / n as f64 - 1.0).abs() < 0.02, "variance {}", squares / n as f64);
    }

    #[test]
    fn smooth_noise_is_continuous_and_differs_between_seeds_and_streams() {
        let [a, b, c] = [Noise::new(1, 1), Noise::new(2, 1), Noise::new(1, 2)];
        let mut range = 0f32;
        for i in 0..1000 {
            let p = [i as f32 * 0.171, i as f32 * 0.093 - 20.0, 3.3];
            let step = a.smooth(add(p, [0.001, 0.001, 0.0])) - a.smooth(p);
            assert!(step.abs() < 0.01, "a jump of {step} at {p:?}");
            assert!(a.smooth(p).abs() <= 1.0);
            range = range.max((a.smooth(p) - b.smooth(p)).abs().min((a.smooth(p) - c.smooth(p)).abs()));
        }
        assert!(range > 0.3, "seeds or streams repeat each other: {range}");
    }
}
