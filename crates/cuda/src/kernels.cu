// The steps of a network between its convolutions: maps channels last, values of 2 or 4 bytes in memory, f32 in registers.
//
// This one text is compiled to PTX, which the program contains, and for the host, where tests compare every kernel with plain loops.
// So it includes nothing, and threads of a block meet at __syncthreads alone: no shuffles, no atomics, shared memory as plain
// arrays. Every sum has a fixed order; sums are f32 within a thread and f64 beyond it where they are long.
//
// A map is [n][voxels][groups * 8]: `groups` counts groups of 8 channels. In kernels with `rows` a block covers that many voxels of
// sample blockIdx.y; its threads are THREADS / groups voxels by `groups` groups. Per sample and channel `form` holds what the
// normalisation became: z = activation(y * form.x + form.y), and the normalised value is y * form.z + form.w.

#define THREADS 256
#define KERNEL extern "C" __global__ void
// Loops whose body is long and whose number of turns is not known: unrolled they would only make the program larger.
#ifdef __CUDACC_RTC__
#define ROLLED _Pragma("unroll 1")
#else
#define ROLLED
#endif
#define INLINE static __device__ __forceinline__

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
typedef float f32;
struct bf16 { u16 bits; };
struct f16 { u16 bits; };
template <class T> struct __align__(16) Group { T v[8]; };

INLINE float widen(float v) { return v; }
INLINE float widen(bf16 v) { return __uint_as_float((u32)v.bits << 16); }
#ifdef __CUDACC_RTC__
// The device rounds to half precision as the text for the host spells out.
INLINE float widen(f16 v) { float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits)); return f; }
#else
INLINE float widen(f16 v) {
    // The exponent is moved by a product, which also takes numbers below the smallest normal one.
    float f = __uint_as_float((u32)(v.bits & 0x7fff) << 13) * __uint_as_float(0x77800000u);
    if ((v.bits & 0x7c00) == 0x7c00) f = __uint_as_float(0x7f800000u | ((u32)(v.bits & 0x3ff) << 13));
    return v.bits & 0x8000 ? -f : f;
}
#endif
INLINE void narrow(float f, float& to) { to = f; }
INLINE void narrow(float f, bf16& to) {
    u32 u = __float_as_uint(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) to.bits = (u16)((u >> 16) | 0x40u);
    else to.bits = (u16)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
#ifdef __CUDACC_RTC__
INLINE void narrow(float f, f16& to) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(f)); }
#else
INLINE void narrow(float f, f16& to) {
    u32 u = __float_as_uint(f), sign = u >> 16 & 0x8000u;
    u &= 0x7fffffffu;
    u32 h;
    if (u > 0x7f800000u) h = 0x7e00u;
    else if (u >= 0x477ff000u) h = 0x7c00u;
    else if (u >= 0x38800000u) h = (u - 0x38000000u + 0xfffu + ((u >> 13) & 1u)) >> 13;
    else {
        // Added to 0.5 the last bits fall off where a number below the smallest normal one ends, rounded to even.
        h = __float_as_uint(__uint_as_float(u) + 0.5f) - 0x3f000000u;
    }
    to.bits = (u16)(sign | h);
}
#endif
template <class T> INLINE T as(float f) { T t; narrow(f, t); return t; }
INLINE float leaky(float v, float slope) { return v > 0 ? v : v * slope; }

// The voxels of a thread.
struct Part { int group, lane, lanes, count; i64 first; };
INLINE Part part_of(int voxels, int groups, int rows) {
    Part p;
    p.group = threadIdx.x % groups;
    p.lane = threadIdx.x / groups;
    p.lanes = THREADS / groups;
    p.first = (i64)blockIdx.y * voxels + (i64)blockIdx.x * rows;
    p.count = min(rows, voxels - (int)blockIdx.x * rows);
    if (p.lane >= p.lanes) p.count = 0;
    return p;
}

// Adds two numbers per channel over the lanes of a block: sums[block of row][c][2].
INLINE void add_lanes(const float (&a)[8], const float (&q)[8], const Part& p, int groups, i64 row, float* sums) {
    __shared__ float s[THREADS * 16];
    for (int i = 0; i < 8; i++) { s[threadIdx.x * 16 + i] = a[i]; s[threadIdx.x * 16 + 8 + i] = q[i]; }
    __syncthreads();
    for (int e = threadIdx.x; e < groups * 16; e += THREADS) {
        int g = e / 16, i = e % 8, which = e % 16 / 8;
        float sum = 0;
        for (int l = 0; l < p.lanes; l++) sum += s[(l * groups + g) * 16 + e % 16];
        sums[((row * gridDim.x + blockIdx.x) * groups * 8 + g * 8 + i) * 2 + which] = sum;
    }
}

// Adds N numbers over all threads of a block, into `out`.
template <int N> INLINE void add_threads(const double (&v)[N], double* out) {
    __shared__ double s[N][THREADS];
    __shared__ double t[N][16];
    __syncthreads();
    for (int i = 0; i < N; i++) s[i][threadIdx.x] = v[i];
    __syncthreads();
    if (threadIdx.x < N * 16) {
        double sum = 0;
        int i = threadIdx.x / 16, part = threadIdx.x % 16;
        for (int k = 0; k < THREADS / 16; k++) sum += s[i][part * (THREADS / 16) + k];
        t[i][part] = sum;
    }
    __syncthreads();
    if (threadIdx.x < N) {
        double sum = 0;
        for (int k = 0; k < 16; k++) sum += t[threadIdx.x][k];
        out[threadIdx.x] = sum;
    }
}

// ---- maps and their statistics

// A patch [n][c][voxels] in f32 becomes a map [n][voxels][c].
template <class T> INLINE void pack(const float* x, T* z, int voxels, int c) {
    i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= voxels) return;
    ROLLED for (int k = 0; k < c; k++) z[((i64)blockIdx.y * voxels + i) * c + k] = as<T>(x[((i64)blockIdx.y * c + k) * voxels + i]);
}

// Sums and sums of squares: part[n][block][c][2].
template <class T> INLINE void stats(const Group<T>* x, float* part, int voxels, int groups, int rows) {
    Part p = part_of(voxels, groups, rows);
    float a[8] = {0}, q[8] = {0};
    ROLLED for (int r = p.lane; r < p.count; r += p.lanes) {
        Group<T> v = x[(p.first + r) * groups + p.group];
        for (int i = 0; i < 8; i++) { float f = widen(v.v[i]); a[i] += f; q[i] += f * f; }
    }
    add_lanes(a, q, p, groups, blockIdx.y, part);
}

// Adds the parts of all blocks in f64: sums[row][c][2], a block per row and group of channels.
KERNEL fold(const float* part, double* sums, int blocks, int groups) {
    __shared__ double s[THREADS];
    int e = threadIdx.x % 16, lane = threadIdx.x / 16;
    i64 row = blockIdx.y;
    double sum = 0;
    for (int b = lane; b < blocks; b += THREADS / 16) sum += part[((row * blocks + b) * groups + blockIdx.x) * 16 + e];
    s[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < 16) {
        double all = 0;
        for (int l = 0; l < THREADS / 16; l++) all += s[l * 16 + e];
        sums[(row * groups + blockIdx.x) * 16 + e] = all;
    }
}

struct Norm {
    // 0: none, 1: statistics of the map, 2: kept statistics.
    int kind;
    // Channels that share statistics, and whether samples do.
    int per, batch;
    float eps;
};

// What a normalisation becomes, from the sums of what the convolution wrote. The convolution's bias and the factors of dropout never
// touch a map: they act here. Up to three biases are added. `total` keeps the sum of the normalised values; running statistics are
// changed where they are given. Channels from `real` on are padding.
KERNEL affine(const double* sums, const float* gamma, const float* beta, const float* bias0, const float* bias1, const float* bias2,
              const float* mask, float* mean_kept, float* var_kept, float4* form, float* total, Norm norm, int n, int c, int real, int voxels) {
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= n * c) return;
    int s = i / c, ch = i % c;
    if (ch >= real) { form[i] = make_float4(0, 0, 0, 0); total[i] = 0; return; }
    float g = gamma ? gamma[ch] : 1.f, b = beta ? beta[ch] : 0.f;
    double m = mask ? mask[s * real + ch] : 1.0;
    double bias = (bias0 ? (double)bias0[ch] : 0.0) + (bias1 ? (double)bias1[ch] : 0.0) + (bias2 ? (double)bias2[ch] : 0.0);
    if (norm.kind == 0) { form[i] = make_float4((float)m, (float)(m * bias), (float)m, (float)(m * bias)); total[i] = 0; return; }
    double mean, var, count = (double)voxels * norm.per * (norm.batch ? n : 1);
    if (norm.kind == 2) { mean = mean_kept[ch]; var = var_kept[ch]; }
    else {
        double sum = 0, square = 0;
        int first = ch / norm.per * norm.per;
        ROLLED for (int k = norm.batch ? 0 : s; k < (norm.batch ? n : s + 1); k++)
            ROLLED for (int j = first; j < first + norm.per; j++) {
                double f = mask ? mask[k * real + j] : 1.0, a = sums[(k * c + j) * 2], q = sums[(k * c + j) * 2 + 1];
                double o = (bias0 ? (double)bias0[j] : 0.0) + (bias1 ? (double)bias1[j] : 0.0) + (bias2 ? (double)bias2[j] : 0.0);
                sum += f * (a + voxels * o);
                square += f * f * (q + 2 * o * a + voxels * o * o);
            }
        mean = sum / count;
        var = square / count - mean * mean;
        if (var < 0) var = 0;
    }
    double r = 1.0 / sqrt(var + norm.eps);
    double scale = m * r, shift = (m * bias - mean) * r;
    form[i] = make_float4((float)(g * scale), (float)(g * shift + b), (float)scale, (float)shift);
    total[i] = norm.kind == 1 ? (float)(scale * sums[i * 2] + voxels * shift) : 0.f;
    if (norm.kind == 1 && mean_kept && s == 0) {
        float unbiased = (float)(count / (count > 2 ? count - 1.0 : 1.0));
        mean_kept[ch] = mean_kept[ch] * 0.9f + (float)mean * 0.1f;
        var_kept[ch] = var_kept[ch] * 0.9f + (float)var * unbiased * 0.1f;
    }
}

// z = activation(y * scale + shift), also into the groups from `at` on of a joined map. Either may be missing.
template <class T> INLINE void apply(const Group<T>* y, const float4* form, Group<T>* z, Group<T>* also, int voxels, int groups, int rows,
                                     int also_groups, int at, float slope) {
    Part p = part_of(voxels, groups, rows);
    float2 f[8];
    for (int i = 0; i < 8; i++) { float4 all = form[((int)blockIdx.y * groups + p.group) * 8 + i]; f[i] = make_float2(all.x, all.y); }
    ROLLED for (int r = p.lane; r < p.count; r += p.lanes) {
        Group<T> v = y[(p.first + r) * groups + p.group];
        for (int i = 0; i < 8; i++) v.v[i] = as<T>(leaky(widen(v.v[i]) * f[i].x + f[i].y, slope));
        if (z) z[(p.first + r) * groups + p.group] = v;
        if (also) also[(p.first + r) * also_groups + at + p.group] = v;
    }
}

// Of the gradient dz: sums of t = dz * act' and of t times the normalised value, part[n][block][c][2].
template <class T> INLINE void norm_sums(const Group<T>* y, const Group<T>* dz, const float4* form, float* part, int voxels, int groups,
                                         int rows, float slope) {
    Part p = part_of(voxels, groups, rows);
    float a[8] = {0}, q[8] = {0};
    float4 f[8];
    for (int i = 0; i < 8; i++) f[i] = form[((int)blockIdx.y * groups + p.group) * 8 + i];
    ROLLED for (int r = p.lane; r < p.count; r += p.lanes) {
        Group<T> v = y[(p.first + r) * groups + p.group], d = dz[(p.first + r) * groups + p.group];
        for (int i = 0; i < 8; i++) {
            float x = widen(v.v[i]), t = widen(d.v[i]);
            if (!(x * f[i].x + f[i].y > 0)) t *= slope;
            a[i] += t;
            q[i] += t * (x * f[i].z + f[i].w);
        }
    }
    add_lanes(a, q, p, groups, blockIdx.y, part);
}

// From those sums: terms[n][c] such that dy = scale * t + terms.x + y * terms.y, and the gradients of factor, offset and biases.
KERNEL norm_terms(const double* sums, const float* gamma, const float4* form, const float* total, float2* terms, float* dgamma,
                  float* dbeta, float* dbias0, float* dbias1, float* dbias2, Norm norm, int n, int c, int real, int voxels) {
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= n * c) return;
    int s = i / c, ch = i % c;
    if (ch >= real) { terms[i] = make_float2(0, 0); return; }
    double count = (double)voxels * norm.per * (norm.batch ? n : 1), g = gamma ? gamma[ch] : 1.f;
    int first = ch / norm.per * norm.per;
    double of_gamma = 0, of_beta = 0, of_bias = 0;
    // The thread of the first sample also adds up the parameters' gradients.
    ROLLED for (int k = s; k < (s == 0 ? n : s + 1); k++) {
        double a = 0, q = 0;
        if (norm.kind == 1)
            ROLLED for (int l = norm.batch ? 0 : k; l < (norm.batch ? n : k + 1); l++)
                ROLLED for (int j = first; j < first + norm.per; j++) {
                    double w = gamma ? gamma[j] : 1.f;
                    a += w * sums[(l * c + j) * 2];
                    q += w * sums[(l * c + j) * 2 + 1];
                }
        a /= count;
        q /= count;
        float4 f = form[k * c + ch];
        double sum = sums[(k * c + ch) * 2];
        if (k == s) {
            if (norm.kind) terms[i] = make_float2((float)(-f.z * (a + q * f.w)), (float)(-f.z * q * f.z));
            else terms[i] = make_float2(0, 0);
        }
        of_beta += sum;
        of_gamma += sums[(k * c + ch) * 2 + 1];
        of_bias += norm.kind ? f.z * (g * sum - voxels * a - q * total[k * c + ch]) : f.z * sum;
    }
    if (s == 0) {
        if (dgamma) dgamma[ch] = (float)of_gamma;
        if (dbeta) dbeta[ch] = (float)of_beta;
        if (dbias0) dbias0[ch] = (float)of_bias;
        if (dbias1) dbias1[ch] = (float)of_bias;
        if (dbias2) dbias2[ch] = (float)of_bias;
    }
}

// dy, which may lie where dz does.
template <class T> INLINE void norm_backward(const Group<T>* y, const Group<T>* dz, const float4* form, const float2* terms, Group<T>* dy,
                                             int voxels, int groups, int rows, float slope) {
    Part p = part_of(voxels, groups, rows);
    float4 f[8];
    float2 k[8];
    for (int i = 0; i < 8; i++) { int c = ((int)blockIdx.y * groups + p.group) * 8 + i; f[i] = form[c]; k[i] = terms[c]; }
    ROLLED for (int r = p.lane; r < p.count; r += p.lanes) {
        Group<T> v = y[(p.first + r) * groups + p.group], d = dz[(p.first + r) * groups + p.group];
        for (int i = 0; i < 8; i++) {
            float x = widen(v.v[i]), t = widen(d.v[i]);
            if (!(x * f[i].x + f[i].y > 0)) t *= slope;
            v.v[i] = as<T>(f[i].x * t + (k[i].x + x * k[i].y));
        }
        dy[(p.first + r) * groups + p.group] = v;
    }
}

// ---- copies, sums and means of maps; `len` counts groups of 8 values

// Into the groups from `at` on of a joined map of `joined_groups`.
template <class T> INLINE void put(const Group<T>* x, Group<T>* joined, i64 len, int groups, int joined_groups, int at) {
    i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (i < len) joined[i / groups * joined_groups + at + i % groups] = x[i];
}

// The way back: those groups, added to what is there or not.
template <class T> INLINE void take(const Group<T>* joined, Group<T>* x, i64 len, int groups, int joined_groups, int at, int add) {
    i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= len) return;
    Group<T> v = joined[i / groups * joined_groups + at + i % groups];
    if (add) {
        Group<T> old = x[i];
        for (int k = 0; k < 8; k++) v.v[k] = as<T>(widen(old.v[k]) + widen(v.v[k]));
    }
    x[i] = v;
}

// z = activation(a + b).
template <class T> INLINE void add(const Group<T>* a, const Group<T>* b, Group<T>* z, i64 len, float slope) {
    i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= len) return;
    Group<T> v = a[i], w = b[i];
    for (int k = 0; k < 8; k++) v.v[k] = as<T>(leaky(widen(v.v[k]) + widen(w.v[k]), slope));
    z[i] = v;
}

// The gradient through an activation that wrote z: dx = dz * act', added to what is there or not; dx may lie where dz does.
template <class T> INLINE void through(const Group<T>* z, const Group<T>* dz, Group<T>* dx, i64 len, int add, float slope) {
    i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= len) return;
    Group<T> v = z[i], d = dz[i], old = d;
    if (add) old = dx[i];
    for (int k = 0; k < 8; k++) {
        float t = widen(d.v[k]) * (widen(v.v[k]) > 0 ? 1.f : slope);
        d.v[k] = as<T>(add ? widen(old.v[k]) + t : t);
    }
    dx[i] = d;
}

struct Size { int z, y, x; };

// Mean of every block of `kernel` voxels; `size` is the result's.
template <class T> INLINE void pool(const Group<T>* x, Group<T>* z, i64 len, Size size, Size kernel, int groups) {
    i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= len) return;
    int g = (int)(i % groups), cx = (int)(i / groups % size.x), cy = (int)(i / groups / size.x % size.y);
    i64 cz = i / groups / size.x / size.y; // of all samples: planes of kernel.z each
    float sum[8] = {0};
    ROLLED for (int a = 0; a < kernel.z; a++)
        ROLLED for (int b = 0; b < kernel.y; b++)
            ROLLED for (int c = 0; c < kernel.x; c++) {
                i64 at = ((cz * kernel.z + a) * size.y * kernel.y + cy * kernel.y + b) * size.x * kernel.x + cx * kernel.x + c;
                Group<T> v = x[at * groups + g];
                for (int k = 0; k < 8; k++) sum[k] += widen(v.v[k]);
            }
    float share = 1.f / (float)(kernel.z * kernel.y * kernel.x);
    Group<T> v;
    for (int k = 0; k < 8; k++) v.v[k] = as<T>(sum[k] * share);
    z[i] = v;
}

// Its gradient, added to what is there or not; `len` and `size` are those of dx.
template <class T> INLINE void pool_backward(const Group<T>* dz, Group<T>* dx, i64 len, Size size, Size kernel, int groups, int add) {
    i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= len) return;
    int g = (int)(i % groups), cx = (int)(i / groups % size.x), cy = (int)(i / groups / size.x % size.y);
    i64 cz = i / groups / size.x / size.y;
    i64 at = (cz / kernel.z * (size.y / kernel.y) + cy / kernel.y) * (size.x / kernel.x) + cx / kernel.x;
    float share = 1.f / (float)(kernel.z * kernel.y * kernel.x);
    Group<T> v = dz[at * groups + g], old = v;
    if (add) old = dx[i];
    for (int k = 0; k < 8; k++) {
        float t = widen(v.v[k]) * share;
        v.v[k] = as<T>(add ? widen(old.v[k]) + t : t);
    }
    dx[i] = v;
}

// ---- heads: logits [n][outs][voxels] in f32, weights [outs][groups * 8]

template <class T> INLINE void head(const Group<T>* x, const float* w, const float* bias, float* logits, int voxels, int groups, int outs) {
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= voxels) return;
    const Group<T>* from = x + ((i64)blockIdx.y * voxels + i) * groups;
    ROLLED for (int o = 0; o < outs; o += 4) {
        int count = min(4, outs - o);
        float sum[4] = {0};
        ROLLED for (int g = 0; g < groups; g++) {
            Group<T> v = from[g];
            for (int k = 0; k < count; k++)
                for (int j = 0; j < 8; j++) sum[k] += w[((o + k) * groups + g) * 8 + j] * widen(v.v[j]);
        }
        for (int k = 0; k < count; k++) logits[((i64)blockIdx.y * outs + o + k) * voxels + i] = sum[k] + (bias ? bias[o + k] : 0.f);
    }
}

// Gradient of what a head read, added to what is there or not.
template <class T> INLINE void head_data(const float* d, const float* w, Group<T>* dx, int voxels, int groups, int outs, int add) {
    i64 at = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (at >= (i64)voxels * groups) return;
    int g = (int)(at % groups);
    i64 i = at / groups;
    float sum[8] = {0};
    ROLLED for (int o = 0; o < outs; o++) {
        float t = d[((i64)blockIdx.y * outs + o) * voxels + i];
        for (int j = 0; j < 8; j++) sum[j] += t * w[(o * groups + g) * 8 + j];
    }
    Group<T>* to = dx + (i64)blockIdx.y * voxels * groups + at;
    Group<T> v;
    if (add) v = *to;
    for (int j = 0; j < 8; j++) v.v[j] = as<T>(add ? widen(v.v[j]) + sum[j] : sum[j]);
    *to = v;
}

// Sums of d * x and of d of output blockIdx.z: part[n][outs][block][c][2].
template <class T> INLINE void head_weights(const Group<T>* x, const float* d, float* part, int voxels, int groups, int rows, int outs) {
    Part p = part_of(voxels, groups, rows);
    float a[8] = {0}, q[8] = {0};
    const float* from = d + ((i64)blockIdx.y * outs + blockIdx.z) * voxels + (i64)blockIdx.x * rows;
    ROLLED for (int r = p.lane; r < p.count; r += p.lanes) {
        Group<T> v = x[(p.first + r) * groups + p.group];
        float t = from[r];
        for (int i = 0; i < 8; i++) { a[i] += t * widen(v.v[i]); q[i] += t; }
    }
    add_lanes(a, q, p, groups, (i64)blockIdx.y * outs + blockIdx.z, part);
}

// Gradients of a head's weights and bias from those sums, folded.
KERNEL head_terms(const double* sums, float* dw, float* dbias, int n, int outs, int c) {
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= outs * c) return;
    int o = i / c;
    double w = 0, b = 0;
    ROLLED for (int s = 0; s < n; s++) {
        w += sums[((i64)s * outs * c + i) * 2];
        b += sums[((i64)s * outs * c + i) * 2 + 1];
    }
    dw[i] = (float)w;
    if (dbias && i % c == 0) dbias[o] = (float)b;
}

// ---- loss: Dice and cross entropy of one head; see net::loss. A block covers `rows` voxels of sample blockIdx.y.
// part[n][block][outs * 3 + 2]: per output the sums of p t, p and t, then those of the cross entropy and of the weights.

// One sigmoid per region. Targets are [n][outs (+ 1 where voxels are ignored)][voxels]; `probs` becomes the probabilities.
KERNEL loss_regions(const float* logits, const u8* targets, float* probs, double* part, int voxels, int rows, int outs, int ignoring) {
    int first = blockIdx.x * rows, end = min(voxels, first + rows), stored = outs + ignoring;
    double* out = part + ((i64)blockIdx.y * gridDim.x + blockIdx.x) * (outs * 3 + 2);
    double entropy = 0, counted = 0;
    ROLLED for (int o = 0; o < outs; o++) {
        const float* x = logits + ((i64)blockIdx.y * outs + o) * voxels;
        const u8* target = targets + ((i64)blockIdx.y * stored + o) * voxels;
        const u8* ignored = targets + ((i64)blockIdx.y * stored + outs) * voxels;
        float* to = probs + ((i64)blockIdx.y * outs + o) * voxels;
        double v[3] = {0};
        ROLLED for (int i = first + threadIdx.x; i < end; i += THREADS) {
            float l = x[i], t = target[i], w = ignoring ? 1.f - ignored[i] : 1.f;
            float e = expf(-fabsf(l)), u = 1.f + e, p = l >= 0 ? 1.f / u : e / u;
            to[i] = p;
            float h = (l < 0 ? 0.f : l) - l * t + logf(u);
            p *= w;
            v[0] += p * t;
            v[1] += p;
            v[2] += t * w;
            entropy += h * w;
            counted += w;
        }
        add_threads(v, out + o * 3);
    }
    double v[2] = {entropy, counted};
    add_threads(v, out + outs * 3);
}

// One softmax over all labels; `ignored` is the label that does not count, or -32768.
KERNEL loss_labels(const float* logits, const short* targets, float* probs, double* part, int voxels, int rows, int outs, int ignored) {
    int first = blockIdx.x * rows, end = min(voxels, first + rows);
    double* out = part + ((i64)blockIdx.y * gridDim.x + blockIdx.x) * (outs * 3 + 2);
    const float* x = logits + (i64)blockIdx.y * outs * voxels;
    const short* target = targets + (i64)blockIdx.y * voxels;
    float* to = probs + (i64)blockIdx.y * outs * voxels;
    double v[2] = {0};
    ROLLED for (int i = first + threadIdx.x; i < end; i += THREADS) {
        float most = x[i], sum = 0, chosen = 0, w = target[i] == ignored ? 0.f : 1.f;
        ROLLED for (int o = 0; o < outs; o++) {
            float l = x[(i64)o * voxels + i];
            // A NaN stays, so that the loss becomes one.
            most = l <= most ? most : l;
            if (o == target[i]) chosen = l;
        }
        ROLLED for (int o = 0; o < outs; o++) {
            float e = expf(x[(i64)o * voxels + i] - most);
            to[(i64)o * voxels + i] = e;
            sum += e;
        }
        ROLLED for (int o = 0; o < outs; o++) to[(i64)o * voxels + i] /= sum;
        v[0] += (logf(sum) + most - chosen) * w;
        v[1] += w;
    }
    add_threads(v, out + outs * 3);
    ROLLED for (int o = 0; o < outs; o++) {
        double u[3] = {0};
        ROLLED for (int i = first + threadIdx.x; i < end; i += THREADS) {
            float w = target[i] == ignored ? 0.f : 1.f, p = to[(i64)o * voxels + i] * w, t = o == target[i] ? w : 0.f;
            u[0] += p * t;
            u[1] += p;
            u[2] += t;
        }
        add_threads(u, out + o * 3);
    }
}

struct LossRule {
    double dice_weight, voxel_weight, smooth, weight;
    // Sums over the batch; the first channel counts; version 1's Dice; regions with ignored voxels.
    int batch_dice, background, v1, per_channel;
};

// From the parts: coefficients of the gradient, `terms` = slope and offset of [n][outs], then the factor of the entropy; and the
// loss = {total, dice, voxel}. One block.
KERNEL loss_terms(const double* part, double* sums, float* terms, double* loss, LossRule rule, int n, int blocks, int outs) {
    int width = outs * 3 + 2;
    ROLLED for (int e = threadIdx.x; e < n * width; e += THREADS) {
        double sum = 0;
        ROLLED for (int b = 0; b < blocks; b++) sum += part[((i64)(e / width) * blocks + b) * width + e % width];
        sums[e] = sum;
    }
    __syncthreads();
    if (threadIdx.x) return;
    int first = rule.background ? 0 : 1, sets = rule.batch_dice ? 1 : n;
    double dices = (double)sets * (outs - first), dice = 0, factor = rule.weight * rule.dice_weight / dices;
    ROLLED for (int i = 0; i < n * outs * 2 + 1; i++) terms[i] = 0;
    ROLLED for (int g = 0; g < sets; g++)
        ROLLED for (int o = first; o < outs; o++) {
            double both = 0, prob = 0, target = 0;
            ROLLED for (int s = rule.batch_dice ? 0 : g; s < (rule.batch_dice ? n : g + 1); s++) {
                both += sums[s * width + o * 3];
                prob += sums[s * width + o * 3 + 1];
                target += sums[s * width + o * 3 + 2];
            }
            double numerator = 2 * both + rule.smooth, sum = prob + target + rule.smooth, denominator = sum;
            int clamped = 0;
            if (rule.v1) denominator = sum + 1e-8;
            else if (sum < 1e-8) { denominator = 1e-8; clamped = 1; }
            dice -= numerator / denominator / dices;
            ROLLED for (int s = rule.batch_dice ? 0 : g; s < (rule.batch_dice ? n : g + 1); s++) {
                terms[s * outs + o] = (float)(-2 * factor / denominator);
                terms[(n + s) * outs + o] = clamped ? 0.f : (float)(factor * numerator / (denominator * denominator));
            }
        }
    double entropy = 0, count = 0, voxel = 0;
    ROLLED for (int s = 0; s < n; s++) { entropy += sums[s * width + outs * 3]; count += sums[s * width + outs * 3 + 1]; }
    if (rule.per_channel) { count /= outs; if (count < 1e-8) count = 1e-8; }
    if (count > 0) { voxel = entropy / count; terms[n * outs * 2] = (float)(rule.weight * rule.voxel_weight / count); }
    loss[0] = rule.dice_weight * dice + rule.voxel_weight * voxel;
    loss[1] = dice;
    loss[2] = voxel;
}

// Probabilities become the gradient with respect to the logits.
KERNEL loss_regions_gradient(const u8* targets, const float* terms, float* probs, int voxels, int outs, int ignoring) {
    int i = blockIdx.x * THREADS + threadIdx.x, n = gridDim.y;
    if (i >= voxels) return;
    float entropy = terms[n * outs * 2];
    const u8* target = targets + (i64)blockIdx.y * (outs + ignoring) * voxels + i;
    float w = ignoring ? 1.f - target[(i64)outs * voxels] : 1.f;
    ROLLED for (int o = 0; o < outs; o++) {
        float* at = probs + ((i64)blockIdx.y * outs + o) * voxels + i;
        float p = *at, t = target[(i64)o * voxels], slope = terms[blockIdx.y * outs + o], offset = terms[(n + blockIdx.y) * outs + o];
        *at = ((p - t) * entropy + p * (1.f - p) * (slope * t + offset)) * w;
    }
}

KERNEL loss_labels_gradient(const short* targets, const float* terms, float* probs, int voxels, int outs, int ignored) {
    int i = blockIdx.x * THREADS + threadIdx.x, n = gridDim.y;
    if (i >= voxels) return;
    float entropy = terms[n * outs * 2], mean = 0;
    int target = targets[(i64)blockIdx.y * voxels + i];
    const float *slope = terms + blockIdx.y * outs, *offset = terms + (n + blockIdx.y) * outs;
    float* at = probs + (i64)blockIdx.y * outs * voxels + i;
    ROLLED for (int o = 0; o < outs; o++) mean += at[(i64)o * voxels] * (offset[o] + (o == target ? slope[o] : 0.f));
    ROLLED for (int o = 0; o < outs; o++) {
        float p = at[(i64)o * voxels], dice = offset[o] + (o == target ? slope[o] : 0.f);
        at[(i64)o * voxels] = target == ignored ? 0.f : (p - (o == target ? 1.f : 0.f)) * entropy + p * (dice - mean);
    }
}

// ---- update

// Sums of squares of `chunk` values a block.
template <class T> INLINE void squares(const T* gradient, double* part, i64 len, i64 chunk) {
    i64 first = (i64)blockIdx.x * chunk, end = first + chunk < len ? first + chunk : len;
    double v[1] = {0};
    ROLLED for (i64 i = first + threadIdx.x; i < end; i += THREADS) { double g = widen(gradient[i]); v[0] += g * g; }
    add_threads(v, part + blockIdx.x);
}

// What an update reads: control = {factor of the gradients, 1 if the weights are to be changed}; and the length of all gradients. The
// losses of `heads` heads are looked at too. `clip` is at most infinite, `unscale` undoes a factor of the loss. One block.
KERNEL norm_total(const double* part, const double* losses, float* control, double* norm, i64 count, int heads, double clip, double unscale) {
    double v[1] = {0};
    ROLLED for (i64 i = threadIdx.x; i < count; i += THREADS) v[0] += part[i];
    add_threads(v, norm);
    __syncthreads();
    if (threadIdx.x) return;
    double length = sqrt(norm[0]) * unscale;
    int good = isfinite(length);
    ROLLED for (int h = 0; h < heads; h++) good = good && isfinite(losses[h * 3]);
    norm[0] = length;
    double factor = clip / (length + 1e-6);
    control[0] = (float)((factor < 1 ? factor : 1.0) * unscale);
    control[1] = good ? 1.f : 0.f;
}

// PyTorch's SGD on f32 weights, and their copy for the convolutions, which may be missing.
// hyper = {learning rate, momentum, decay, 1 for Nesterov, 1 in the first step}.
template <class T> INLINE void sgd(float* w, float* velocity, const T* gradient, T* copy, const float* control, const float* hyper, i64 len) {
    i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= len || control[1] == 0) return;
    float lr = hyper[0], momentum = hyper[1];
    float g = widen(gradient[i]) * control[0] + hyper[2] * w[i];
    float v = hyper[4] != 0 ? g : velocity[i] * momentum + g;
    velocity[i] = v;
    w[i] -= lr * (hyper[3] != 0 ? g + momentum * v : v);
    if (copy) copy[i] = as<T>(w[i]);
}

// PyTorch's AdamW. hyper = {beta1, beta2, eps, step size, root of the second correction, factor of the weights}.
template <class T> INLINE void adamw(float* w, float* mean, float* square, const T* gradient, T* copy, const float* control,
                                     const float* hyper, i64 len) {
    i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= len || control[1] == 0) return;
    float g = widen(gradient[i]) * control[0], m = mean[i], s = square[i];
    m += (g - m) * (1.f - hyper[0]);
    s = s * hyper[1] + (1.f - hyper[1]) * g * g;
    mean[i] = m;
    square[i] = s;
    w[i] = w[i] * hyper[5] - hyper[3] * m / (sqrtf(s) / hyper[4] + hyper[2]);
    if (copy) copy[i] = as<T>(w[i]);
}

template <class T> INLINE void copy(const float* w, T* to, i64 len) {
    i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (i < len) to[i] = as<T>(w[i]);
}

// ---- axial attention: position embeddings, and scores along one axis. Projections are convolutions of kernel 1.

// z = x + the embeddings [real][size] of the three axes; padding stays 0.
template <class T> INLINE void embed(const Group<T>* x, const float* pz, const float* py, const float* px, Group<T>* z, i64 len, Size size,
                                     int groups, int real) {
    i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= len) return;
    int g = (int)(i % groups), cx = (int)(i / groups % size.x), cy = (int)(i / groups / size.x % size.y);
    int cz = (int)(i / groups / size.x / size.y % size.z);
    Group<T> v = x[i];
    for (int k = 0; k < 8; k++) {
        int c = g * 8 + k;
        if (c < real) v.v[k] = as<T>(widen(v.v[k]) + pz[c * size.z + cz] + py[c * size.y + cy] + px[c * size.x + cx]);
    }
    z[i] = v;
}

// Gradient of the embeddings of one axis: d[real][length]. Voxels are [outer][length][inner]; a block per place and group.
template <class T> INLINE void embed_backward(const Group<T>* dz, float* d, i64 outer, int length, i64 inner, int groups, int real) {
    double v[8] = {0};
    ROLLED for (i64 i = threadIdx.x; i < outer * inner; i += THREADS) {
        Group<T> t = dz[((i / inner * length + blockIdx.x) * inner + i % inner) * groups + blockIdx.y];
        for (int k = 0; k < 8; k++) v[k] += widen(t.v[k]);
    }
    __shared__ double sum[8];
    add_threads(v, sum);
    __syncthreads();
    int c = blockIdx.y * 8 + threadIdx.x;
    if (threadIdx.x < 8 && c < real) d[c * length + blockIdx.x] = (float)sum[threadIdx.x];
}

// Lines of `length` voxels, [outer][length][inner]: line l begins at l / inner * length * inner + l % inner. q is [voxels][stride],
// kv is [voxels][kv_stride] with keys first and values from `hidden` on. A block has QUERIES places of head blockIdx.y of line
// blockIdx.x, and `SPAN` threads each; `chunk` blockIdx.z says which places.
#define QUERIES 16
#define SPAN (THREADS / QUERIES)
#define LONGEST 256
struct Heads { int length, dim, hidden, stride, kv_stride; i64 inner; };
INLINE i64 voxel_of(const Heads& h, int place) {
    i64 line = blockIdx.x;
    return (line / h.inner * h.length + place) * h.inner + line % h.inner;
}
template <class T> INLINE float dot(const T* a, const T* b, int dim) {
    float sum = 0;
    for (int e = 0; e < dim; e++) sum += widen(a[e]) * widen(b[e]);
    return sum;
}

// result = softmax(q k / root(dim)) v.
template <class T> INLINE void attention(const T* q, const T* kv, T* result, Heads h) {
    __shared__ float s[QUERIES][LONGEST];
    __shared__ float sums[QUERIES];
    int own = threadIdx.x / SPAN, lane = threadIdx.x % SPAN, place = blockIdx.z * QUERIES + own;
    int at = blockIdx.y * h.dim;
    float scale = 1.f / sqrtf((float)h.dim);
    if (place < h.length)
        ROLLED for (int k = lane; k < h.length; k += SPAN)
            s[own][k] = dot(q + voxel_of(h, place) * h.stride + at, kv + voxel_of(h, k) * h.kv_stride + at, h.dim) * scale;
    __syncthreads();
    if (place < h.length && lane == 0) {
        float most = s[own][0], sum = 0;
        ROLLED for (int k = 1; k < h.length; k++) most = s[own][k] > most ? s[own][k] : most;
        ROLLED for (int k = 0; k < h.length; k++) { float e = expf(s[own][k] - most); s[own][k] = e; sum += e; }
        sums[own] = sum;
    }
    __syncthreads();
    if (place < h.length)
        ROLLED for (int e = lane; e < h.dim; e += SPAN) {
            float sum = 0;
            ROLLED for (int k = 0; k < h.length; k++) sum += s[own][k] * widen(kv[voxel_of(h, k) * h.kv_stride + h.hidden + at + e]);
            result[voxel_of(h, place) * h.stride + at + e] = as<T>(sum / sums[own]);
        }
}

// Gradient of the queries; and rows[voxel][heads] = {log of the sum of exponentials, mean of the weights' gradients}.
template <class T> INLINE void attention_queries(const T* q, const T* kv, const T* d, T* dq, float2* rows, Heads h) {
    __shared__ float s[QUERIES][LONGEST];
    __shared__ float g[QUERIES][SPAN];
    __shared__ float2 row[QUERIES];
    int own = threadIdx.x / SPAN, lane = threadIdx.x % SPAN, place = blockIdx.z * QUERIES + own;
    int at = blockIdx.y * h.dim;
    float scale = 1.f / sqrtf((float)h.dim);
    const T *of_q = q + voxel_of(h, place) * h.stride + at, *of_d = d + voxel_of(h, place) * h.stride + at;
    if (place < h.length)
        ROLLED for (int k = lane; k < h.length; k += SPAN) s[own][k] = dot(of_q, kv + voxel_of(h, k) * h.kv_stride + at, h.dim) * scale;
    __syncthreads();
    if (place < h.length && lane == 0) {
        float most = s[own][0], sum = 0;
        ROLLED for (int k = 1; k < h.length; k++) most = s[own][k] > most ? s[own][k] : most;
        ROLLED for (int k = 0; k < h.length; k++) sum += expf(s[own][k] - most);
        row[own].x = most + logf(sum);
    }
    __syncthreads();
    if (place < h.length) {
        float mean = 0;
        ROLLED for (int k = lane; k < h.length; k += SPAN) {
            float w = expf(s[own][k] - row[own].x);
            mean += w * dot(of_d, kv + voxel_of(h, k) * h.kv_stride + h.hidden + at, h.dim);
        }
        g[own][lane] = mean;
    }
    __syncthreads();
    if (place < h.length && lane == 0) {
        float mean = 0;
        for (int l = 0; l < SPAN; l++) mean += g[own][l];
        row[own].y = mean;
        rows[voxel_of(h, place) * gridDim.y + blockIdx.y] = row[own];
    }
    __syncthreads();
    if (place < h.length)
        ROLLED for (int k = lane; k < h.length; k += SPAN) {
            float w = expf(s[own][k] - row[own].x);
            s[own][k] = w * (dot(of_d, kv + voxel_of(h, k) * h.kv_stride + h.hidden + at, h.dim) - row[own].y) * scale;
        }
    __syncthreads();
    if (place < h.length)
        ROLLED for (int e = lane; e < h.dim; e += SPAN) {
            float sum = 0;
            ROLLED for (int k = 0; k < h.length; k++) sum += s[own][k] * widen(kv[voxel_of(h, k) * h.kv_stride + at + e]);
            dq[voxel_of(h, place) * h.stride + at + e] = as<T>(sum);
        }
}

// Gradients of keys and values: the places of a block are those of keys.
template <class T> INLINE void attention_keys(const T* q, const T* kv, const T* d, T* dkv, const float2* rows, Heads h) {
    __shared__ float s[QUERIES][LONGEST];
    __shared__ float g[QUERIES][LONGEST];
    int own = threadIdx.x / SPAN, lane = threadIdx.x % SPAN, place = blockIdx.z * QUERIES + own;
    int at = blockIdx.y * h.dim;
    float scale = 1.f / sqrtf((float)h.dim);
    const T *key = kv + voxel_of(h, place) * h.kv_stride + at, *value = key + h.hidden;
    if (place < h.length)
        ROLLED for (int t = lane; t < h.length; t += SPAN) {
            i64 voxel = voxel_of(h, t);
            float2 row = rows[voxel * gridDim.y + blockIdx.y];
            float w = expf(dot(q + voxel * h.stride + at, key, h.dim) * scale - row.x);
            s[own][t] = w;
            g[own][t] = w * (dot(d + voxel * h.stride + at, value, h.dim) - row.y) * scale;
        }
    __syncthreads();
    if (place < h.length)
        ROLLED for (int e = lane; e < h.dim; e += SPAN) {
            float of_key = 0, of_value = 0;
            ROLLED for (int t = 0; t < h.length; t++) {
                i64 from = voxel_of(h, t) * h.stride + at + e;
                of_key += g[own][t] * widen(q[from]);
                of_value += s[own][t] * widen(d[from]);
            }
            T* to = dkv + voxel_of(h, place) * h.kv_stride + at + e;
            to[0] = as<T>(of_key);
            to[h.hidden] = as<T>(of_value);
        }
}

// ---- prediction: tiles of a case [c][shape] in f32, which stays on the device

// The tile at `start`, which may reach beyond the case (zeros there), mirrored along the axes of `mirror` (4: z, 2: y, 1: x): a map.
template <class T> INLINE void gather(const float* image, T* tile, Size shape, Size size, Size start, int c, int mirror) {
    i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= (i64)size.z * size.y * size.x) return;
    int x = (int)(i % size.x), y = (int)(i / size.x % size.y), z = (int)(i / size.x / size.y);
    if (mirror & 4) z = size.z - 1 - z;
    if (mirror & 2) y = size.y - 1 - y;
    if (mirror & 1) x = size.x - 1 - x;
    z += start.z;
    y += start.y;
    x += start.x;
    int inside = z >= 0 && z < shape.z && y >= 0 && y < shape.y && x >= 0 && x < shape.x;
    i64 voxels = (i64)shape.z * shape.y * shape.x, from = ((i64)z * shape.y + y) * shape.x + x;
    ROLLED for (int k = 0; k < c; k++) tile[i * c + k] = as<T>(inside ? image[k * voxels + from] : 0.f);
}

// mean = logits, or mean += logits mirrored back.
KERNEL unmirror(const float* logits, float* mean, Size size, int outs, int mirror, int add) {
    i64 voxels = (i64)size.z * size.y * size.x, i = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= voxels * outs) return;
    i64 v = i % voxels;
    int x = (int)(v % size.x), y = (int)(v / size.x % size.y), z = (int)(v / size.x / size.y);
    if (mirror & 4) z = size.z - 1 - z;
    if (mirror & 2) y = size.y - 1 - y;
    if (mirror & 1) x = size.x - 1 - x;
    float l = logits[i / voxels * voxels + ((i64)z * size.y + y) * size.x + x];
    mean[i] = add ? mean[i] + l : l;
}

// sum += logits * share * weights where the tile lies inside the case, rounded as the sums are kept.
template <class T> INLINE void accumulate(const float* logits, const float* weights, T* sum, Size shape, Size size, Size start, int outs,
                                          float share) {
    i64 voxels = (i64)size.z * size.y * size.x, i = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= voxels * outs) return;
    i64 v = i % voxels;
    int x = (int)(v % size.x) + start.x, y = (int)(v / size.x % size.y) + start.y, z = (int)(v / size.x / size.y) + start.z;
    if (z < 0 || z >= shape.z || y < 0 || y >= shape.y || x < 0 || x >= shape.x) return;
    T* to = sum + ((i / voxels * shape.z + z) * shape.y + y) * shape.x + x;
    // As the CPU rounds: product by product, without a fused sum.
    *to = as<T>(__fadd_rn(widen(*to), __fmul_rn(__fmul_rn(logits[i], share), weights[v])));
}

// ---- names: every kernel on maps once for each kind of values

#define OF(name, T, parameters, arguments) KERNEL name##_##T parameters { name<T> arguments; }
#define MAPS(T) \
    OF(pack, T, (const float* x, T* z, int voxels, int c), (x, z, voxels, c)) \
    OF(stats, T, (const Group<T>* x, float* part, int voxels, int groups, int rows), (x, part, voxels, groups, rows)) \
    OF(apply, T, (const Group<T>* y, const float4* form, Group<T>* z, Group<T>* also, int voxels, int groups, int rows, int also_groups, int at, float slope), \
       (y, form, z, also, voxels, groups, rows, also_groups, at, slope)) \
    OF(norm_sums, T, (const Group<T>* y, const Group<T>* dz, const float4* form, float* part, int voxels, int groups, int rows, float slope), \
       (y, dz, form, part, voxels, groups, rows, slope)) \
    OF(norm_backward, T, (const Group<T>* y, const Group<T>* dz, const float4* form, const float2* terms, Group<T>* dy, int voxels, int groups, int rows, float slope), \
       (y, dz, form, terms, dy, voxels, groups, rows, slope)) \
    OF(put, T, (const Group<T>* x, Group<T>* joined, i64 len, int groups, int joined_groups, int at), (x, joined, len, groups, joined_groups, at)) \
    OF(take, T, (const Group<T>* joined, Group<T>* x, i64 len, int groups, int joined_groups, int at, int more), \
       (joined, x, len, groups, joined_groups, at, more)) \
    OF(add, T, (const Group<T>* a, const Group<T>* b, Group<T>* z, i64 len, float slope), (a, b, z, len, slope)) \
    OF(through, T, (const Group<T>* z, const Group<T>* dz, Group<T>* dx, i64 len, int more, float slope), (z, dz, dx, len, more, slope)) \
    OF(pool, T, (const Group<T>* x, Group<T>* z, i64 len, Size size, Size kernel, int groups), (x, z, len, size, kernel, groups)) \
    OF(pool_backward, T, (const Group<T>* dz, Group<T>* dx, i64 len, Size size, Size kernel, int groups, int more), \
       (dz, dx, len, size, kernel, groups, more)) \
    OF(head, T, (const Group<T>* x, const float* w, const float* bias, float* logits, int voxels, int groups, int outs), \
       (x, w, bias, logits, voxels, groups, outs)) \
    OF(head_data, T, (const float* d, const float* w, Group<T>* dx, int voxels, int groups, int outs, int more), \
       (d, w, dx, voxels, groups, outs, more)) \
    OF(head_weights, T, (const Group<T>* x, const float* d, float* part, int voxels, int groups, int rows, int outs), \
       (x, d, part, voxels, groups, rows, outs)) \
    OF(squares, T, (const T* gradient, double* part, i64 len, i64 chunk), (gradient, part, len, chunk)) \
    OF(sgd, T, (float* w, float* velocity, const T* gradient, T* to, const float* control, const float* hyper, i64 len), \
       (w, velocity, gradient, to, control, hyper, len)) \
    OF(adamw, T, (float* w, float* mean, float* square, const T* gradient, T* to, const float* control, const float* hyper, i64 len), \
       (w, mean, square, gradient, to, control, hyper, len)) \
    OF(copy, T, (const float* w, T* to, i64 len), (w, to, len)) \
    OF(embed, T, (const Group<T>* x, const float* pz, const float* py, const float* px, Group<T>* z, i64 len, Size size, int groups, int real), \
       (x, pz, py, px, z, len, size, groups, real)) \
    OF(embed_backward, T, (const Group<T>* dz, float* d, i64 outer, int length, i64 inner, int groups, int real), \
       (dz, d, outer, length, inner, groups, real)) \
    OF(attention, T, (const T* q, const T* kv, T* result, Heads heads), (q, kv, result, heads)) \
    OF(attention_queries, T, (const T* q, const T* kv, const T* d, T* dq, float2* rows, Heads heads), (q, kv, d, dq, rows, heads)) \
    OF(attention_keys, T, (const T* q, const T* kv, const T* d, T* dkv, const float2* rows, Heads heads), (q, kv, d, dkv, rows, heads)) \
    OF(gather, T, (const float* image, T* tile, Size shape, Size size, Size start, int c, int mirror), (image, tile, shape, size, start, c, mirror)) \
    OF(accumulate, T, (const float* logits, const float* weights, T* sum, Size shape, Size size, Size start, int outs, float share), \
       (logits, weights, sum, shape, size, start, outs, share))
MAPS(f32)
MAPS(bf16)
MAPS(f16)
