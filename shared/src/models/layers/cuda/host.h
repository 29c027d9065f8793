// What kernels.cu needs of CUDA, on a processor: threads of a block are coroutines that take turns at barriers.
//
// Each runs until it comes to a barrier or its end, in the order of thread numbers, or from the last to the first: a result
// that depends on the order misses a barrier. A shuffle is two barriers around an exchange. For the tests alone.
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __device__
#define __shared__ static  // one block runs at a time, on one thread

struct uint4 { unsigned x, y, z, w; };
struct Dim { unsigned x, y; };
static Dim blockIdx, blockDim, threadIdx;

static float __uint_as_float(unsigned bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static unsigned __float_as_uint(float value) {
  unsigned bits;
  memcpy(&bits, &value, 4);
  return bits;
}

static float float_of_half(unsigned short half) {
  int exponent = (half >> 10) & 31, mantissa = half & 1023;
  float size = exponent == 0 ? std::ldexp((float)mantissa, -24)
             : exponent == 31 ? (mantissa ? NAN : INFINITY)
                              : std::ldexp(1024.0f + mantissa, exponent - 25);
  return half & 0x8000 ? -size : size;
}

static unsigned short half_of_float(float value) {
  unsigned short sign = std::signbit(value) ? 0x8000 : 0;
  float size = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7e00;
  if (size >= 65520.0f) return sign | 0x7c00;  // what rounds to 65536 is infinite
  int exponent = size < 6.103515625e-5f ? -14 : std::ilogb(size);
  // Units of the last place: nearbyint rounds ties to even; a carry into the next exponent is right as it is.
  unsigned units = (unsigned)std::nearbyint(std::ldexp(size, 10 - exponent));
  return sign | (unsigned short)(exponent == -14 ? units : units + ((exponent + 14) << 10));
}

// ---- A block.

struct Coroutine {
  ucontext_t context;
  std::vector<char> stack;
  Dim thread;
  bool is_done;
};

static ucontext_t scheduler;
static std::vector<Coroutine> threads;
static size_t current;
static std::function<void()> body;

static void enter() {
  body();
  threads[current].is_done = true;
  swapcontext(&threads[current].context, &scheduler);
}

static void __syncthreads() { swapcontext(&threads[current].context, &scheduler); }

static std::vector<float> exchanged;

static float __shfl_xor_sync(unsigned, float value, int lanes) {
  size_t own = current;
  exchanged[own] = value;
  __syncthreads();
  float other = exchanged[own ^ lanes];
  __syncthreads();
  return other;
}

static void run_block(bool backwards) {
  size_t count = blockDim.x * blockDim.y;
  threads.resize(count);
  exchanged.assign(count, NAN);
  for (size_t i = 0; i < count; ++i) {
    Coroutine &thread = threads[i];
    thread.stack.resize(64 * 1024);
    thread.thread = {(unsigned)(i % blockDim.x), (unsigned)(i / blockDim.x)};
    thread.is_done = false;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    thread.context.uc_link = &scheduler;
    makecontext(&thread.context, enter, 0);
  }
  for (bool any = true; any;) {
    any = false;
    for (size_t i = 0; i < count; ++i) {
      current = backwards ? count - 1 - i : i;
      if (threads[current].is_done) continue;
      any = true;
      threadIdx = threads[current].thread;
      swapcontext(&scheduler, &threads[current].context);
    }
  }
}

// Calls `kernel` with the arguments that `addresses` points to, as cuLaunchKernel takes them.
template <typename... A, size_t... I>
static void call(void (*kernel)(A...), void **addresses, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_reference_t<A> *>(addresses[I])...);
}

template <typename... A>
static void launch(void (*kernel)(A...), const unsigned *grid, const unsigned *block, void **addresses, bool backwards) {
  blockDim = {block[0], block[1]};
  body = [=] { call(kernel, addresses, std::index_sequence_for<A...>()); };
  for (unsigned y = 0; y < grid[1]; ++y)
    for (unsigned x = 0; x < grid[0]; ++x) {
      blockIdx = {x, y};
      run_block(backwards);
    }
}

#define KERNEL(name, type, parameters, arguments)                                                                    \
  static void kernel_##name##_##type parameters { name<type> arguments; }                                            \
  extern "C" void name##_##type(const unsigned *grid, const unsigned *block, void **addresses, bool backwards) {     \
    launch(kernel_##name##_##type, grid, block, addresses, backwards);                                               \
  }
