// The kernels on the host: the threads of a block are contexts that take turns, blocks run one after the other, and __syncthreads
// hands over to the next thread until all of the block have come so far. Rust writes `table.inc`, the list of kernels.
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __align__(n) alignas(n)
#define __shared__ static
struct Place { unsigned x, y, z; };
static Place threadIdx, blockIdx, gridDim;
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
static float2 make_float2(float x, float y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
static unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
static float __fadd_rn(float a, float b) { return a + b; }
static float __fmul_rn(float a, float b) { return a * b; }
static int min(int a, int b) { return a < b ? a : b; }
using std::isfinite;
static void meet();
#define __syncthreads() meet()

#include "kernels.cu"

static const size_t STACK = 64 << 10;
static jmp_buf scheduler, threads[THREADS];
static bool waiting[THREADS], ended[THREADS];
static unsigned present;
static bool together;
static const char* fault;
static void (*body)(void**);
static void** values;

// Hands over to the scheduler; goes on where it left off. Jumps do not touch the signal mask, which would be a system call each.
static void hand_over() {
    if (!_setjmp(threads[present])) _longjmp(scheduler, 1);
}
static void meet() {
    if (!together) { fault = "a kernel that is said not to meet does"; return; }
    waiting[present] = true;
    hand_over();
}
// A thread's stack lives as long as the library: block after block.
static void run_thread() {
    for (;;) {
        body(values);
        ended[present] = true;
        hand_over();
    }
}
static void resume(unsigned i) {
    static bool started[THREADS];
    static ucontext_t fresh[THREADS];
    static std::vector<char> stacks(STACK * THREADS);
    present = i;
    threadIdx = {i, 0, 0};
    if (_setjmp(scheduler)) return;
    if (started[i]) _longjmp(threads[i], 1);
    started[i] = true;
    getcontext(&fresh[i]);
    fresh[i].uc_stack.ss_sp = stacks.data() + STACK * i;
    fresh[i].uc_stack.ss_size = STACK;
    makecontext(&fresh[i], run_thread, 0);
    setcontext(&fresh[i]);
}
static void run_block() {
    for (unsigned i = 0; i < THREADS; i++) waiting[i] = ended[i] = false;
    for (unsigned turn = 0;; turn++) {
        unsigned wait = 0, end = 0;
        for (unsigned k = 0; k < THREADS; k++) {
            // Forwards and backwards in turns: what depends on the order of threads shows.
            unsigned i = turn % 2 ? THREADS - 1 - k : k;
            if (!ended[i]) {
                waiting[i] = false;
                resume(i);
            }
            wait += waiting[i];
            end += ended[i];
        }
        if (end == THREADS) return;
        if (wait != THREADS) { fault = "threads of a block end while others wait for them"; return; }
    }
}

template <auto F> struct Entry;
template <class... A, void (*F)(A...)> struct Entry<F> {
    template <size_t... I> static void unpack(void** args, std::index_sequence<I...>) { F(*(A*)args[I]...); }
    static void call(void** args) { unpack(args, std::index_sequence_for<A...>()); }
    static std::vector<int> sizes() { return {(int)sizeof(A)...}; }
};
struct Kernel { const char* name; void (*call)(void**); std::vector<int> sizes; };
#define ENTRY(name) {#name, Entry<name>::call, Entry<name>::sizes()},
static const std::vector<Kernel>& table() {
    static const std::vector<Kernel> all = {
#include "table.inc"
    };
    return all;
}

// Runs a kernel whose `count` values, of these sizes, lie at `args`. Null, or what is wrong.
extern "C" const char* glioseg_run(const char* name, const unsigned* grid, void** args, const int* sizes, int count, int meets) {
    for (const Kernel& kernel : table()) {
        if (strcmp(kernel.name, name)) continue;
        if (count != (int)kernel.sizes.size()) return "another number of values than the kernel has";
        for (int i = 0; i < count; i++)
            if (sizes[i] != kernel.sizes[i]) return "a value of another size than the kernel's";
        body = kernel.call;
        values = args;
        together = meets;
        fault = nullptr;
        gridDim = {grid[0], grid[1], grid[2]};
        for (unsigned z = 0; z < grid[2]; z++)
            for (unsigned y = 0; y < grid[1]; y++)
                for (unsigned x = 0; x < grid[0]; x++) {
                    blockIdx = {x, y, z};
                    if (meets) run_block();
                    else
                        for (unsigned i = 0; i < THREADS; i++) { threadIdx = {i, 0, 0}; kernel.call(args); }
                    if (fault) return fault;
                }
        return nullptr;
    }
    return "no such kernel";
}
