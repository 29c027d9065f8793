// Fused kernels of the layers: norms, rotary embedding, activations, forward and backward, and biases, for float32, float16,
// bfloat16; and AdamW's update, for float32.
//
// All of them read and write 16 bytes at a time where width and addresses allow it, compute in float32 whatever the stored
// type is, and round once. They are bound by memory: a row that is read again comes from the cache.
//
// nvcc compiles this file (shared/build.rs). The tests compile it a second time, with host.h in front, by a C++ compiler:
// each thread of a block is a coroutine there (../tests/kernels.rs). It therefore includes no header of CUDA.
//
// A row belongs to blockDim.x threads, 32 or a multiple of it, and a block has blockDim.y rows; more than one only where 32
// threads have a row, because only a warp may then leave early. plan.rs beside this file says how each one is launched.

#ifdef __CUDACC__
#define KERNEL(name, type, parameters, arguments) \
  extern "C" __global__ void name##_##type parameters { name<type> arguments; }
#else
#include "host.h"
#endif

struct bf16 { unsigned short bits; };
struct f16 { unsigned short bits; };
typedef float f32;

// ---- Stored types.

__device__ inline float widened(f32 x) { return x; }
__device__ inline float widened(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ inline float widened(f16 x) {
#ifdef __CUDA_ARCH__
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
#else
  return float_of_half(x.bits);
#endif
}

// To the nearest, ties to even.
template <typename T> __device__ T narrowed(float x);
template <> __device__ inline f32 narrowed<f32>(float x) { return x; }
template <> __device__ inline bf16 narrowed<bf16>(float x) {
  bf16 narrow;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(x));
#else
  unsigned bits = __float_as_uint(x);
  bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  narrow.bits = (unsigned short)(is_nan ? 0x7fffu : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#endif
  return narrow;
}
template <> __device__ inline f16 narrowed<f16>(float x) {
  f16 narrow;
#ifdef __CUDA_ARCH__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(x));
#else
  narrow.bits = half_of_float(x);
#endif
  return narrow;
}

// ---- N values at a time: 16 bytes of them, or one.

template <typename T> struct Wide { static const int N = 16 / sizeof(T); };

template <typename T, int N> struct Values { float at[N]; };

template <typename T, int N> __device__ inline Values<T, N> load(const T *from) {
  Values<T, N> values;
  if (N == 1) {
    values.at[0] = widened(*from);
  } else {
    uint4 raw = *reinterpret_cast<const uint4 *>(from);
    const T *stored = reinterpret_cast<const T *>(&raw);
#pragma unroll
    for (int i = 0; i < N; ++i) values.at[i] = widened(stored[i]);
  }
  return values;
}

template <typename T, int N> __device__ inline void store(T *to, const Values<T, N> &values) {
  if (N == 1) {
    *to = narrowed<T>(values.at[0]);
  } else {
    uint4 raw;
    T *stored = reinterpret_cast<T *>(&raw);
#pragma unroll
    for (int i = 0; i < N; ++i) stored[i] = narrowed<T>(values.at[i]);
    *reinterpret_cast<uint4 *>(to) = raw;
  }
}

__device__ inline bool is_aligned(const void *address) { return (size_t)address % 16 == 0; }

// ---- Rows.

struct Row {
  int index;
  // The first value of this thread, and from one to its next, in units of N values.
  int first, step;
};

__device__ inline Row this_row() {
  Row row;
  row.index = blockIdx.x * blockDim.y + threadIdx.y;
  row.first = threadIdx.x;
  row.step = blockDim.x;
  return row;
}

struct Sum { static __device__ float of(float a, float b) { return a + b; } };
struct Largest { static __device__ float of(float a, float b) { return fmaxf(a, b); } };

// One value of all that the threads of a row have, in each of them. All threads of the row call it.
template <typename Of> __device__ inline float row_all(float value) {
  __shared__ float partial[32];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value = Of::of(value, __shfl_xor_sync(0xffffffffu, value, step));
  if (blockDim.x == 32) return value;
  __syncthreads();  // The values before these have been read.
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  float all = partial[0];
  for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) all = Of::of(all, partial[warp]);
  return all;
}

__device__ inline float row_sum(float value) { return row_all<Sum>(value); }

// ---- Norms' gradients, in which the two norms differ by a row's.

// What a row was shifted and scaled by; an RMS norm's mean is 0.
struct Moments { float mean, r; };

// `moments` (rows, 2) takes those of each row, for norm_weight_grad.
template <typename Norm, typename T>
__device__ void norm_grad(const T *x, const T *w, const T *gy, T *gx, float *moments, int rows, int width, float eps) {
  Row row = this_row();
  if (row.index >= rows) return;
  size_t at = (size_t)row.index * width;
  bool is_wide = width % Wide<T>::N == 0 && is_aligned(x) && is_aligned(w) && is_aligned(gy) && is_aligned(gx);
  Moments m = is_wide ? Norm::template grad_row<T, Wide<T>::N>(x + at, w, gy + at, gx + at, row, width, eps)
                      : Norm::template grad_row<T, 1>(x + at, w, gy + at, gx + at, row, width, eps);
  if (threadIdx.x == 0) {
    moments[2 * row.index] = m.mean;
    moments[2 * row.index + 1] = m.r;
  }
}

// ---- RMS norm: y = x r w with r = 1 / sqrt(mean(x^2) + eps).

template <typename T, int N> __device__ float inverse_rms(const T *x, Row row, int width, float eps) {
  float squares = 0.0f;
  for (int i = row.first; i < width / N; i += row.step) {
    Values<T, N> a = load<T, N>(x + i * N);
#pragma unroll
    for (int j = 0; j < N; ++j) squares += a.at[j] * a.at[j];
  }
  return 1.0f / sqrtf(row_sum(squares) / width + eps);
}

template <typename T, int N>
__device__ void rms_norm_row(const T *x, const T *w, T *y, Row row, int width, float eps) {
  float r = inverse_rms<T, N>(x, row, width, eps);
  for (int i = row.first; i < width / N; i += row.step) {
    Values<T, N> a = load<T, N>(x + i * N), b = load<T, N>(w + i * N);
#pragma unroll
    for (int j = 0; j < N; ++j) a.at[j] *= r * b.at[j];
    store<T, N>(y + i * N, a);
  }
}

template <typename T> __device__ void rms_norm(const T *x, const T *w, T *y, int rows, int width, float eps) {
  Row row = this_row();
  if (row.index >= rows) return;
  size_t at = (size_t)row.index * width;
  if (width % Wide<T>::N == 0 && is_aligned(x) && is_aligned(w) && is_aligned(y))
    rms_norm_row<T, Wide<T>::N>(x + at, w, y + at, row, width, eps);
  else
    rms_norm_row<T, 1>(x + at, w, y + at, row, width, eps);
}

// With n = x r and g = gy w: gx = r (g - n mean(g n)).
struct RmsNorm {
  template <typename T, int N>
  static __device__ Moments grad_row(const T *x, const T *w, const T *gy, T *gx, Row row, int width, float eps) {
    float r = inverse_rms<T, N>(x, row, width, eps), products = 0.0f;
    for (int i = row.first; i < width / N; i += row.step) {
      Values<T, N> a = load<T, N>(x + i * N), b = load<T, N>(w + i * N), g = load<T, N>(gy + i * N);
#pragma unroll
      for (int j = 0; j < N; ++j) products += g.at[j] * b.at[j] * a.at[j];
    }
    float mean = row_sum(products) * r * r / width;
    for (int i = row.first; i < width / N; i += row.step) {
      Values<T, N> a = load<T, N>(x + i * N), b = load<T, N>(w + i * N), g = load<T, N>(gy + i * N);
#pragma unroll
      for (int j = 0; j < N; ++j) a.at[j] = r * (g.at[j] * b.at[j] - a.at[j] * mean);
      store<T, N>(gx + i * N, a);
    }
    Moments moments = {0.0f, r};
    return moments;
  }
};

template <typename T>
__device__ void rms_norm_grad(const T *x, const T *w, const T *gy, T *gx, float *moments, int rows, int width, float eps) {
  norm_grad<RmsNorm>(x, w, gy, gx, moments, rows, width, eps);
}

// ---- Layer norm: y = (x - mean) r w + b with r = 1 / sqrt(variance + eps).

// In two passes, as the one-pass form cancels.
template <typename T, int N> __device__ Moments moments_of(const T *x, Row row, int width, float eps) {
  float sum = 0.0f, squares = 0.0f;
  for (int i = row.first; i < width / N; i += row.step) {
    Values<T, N> a = load<T, N>(x + i * N);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += a.at[j];
  }
  Moments moments;
  moments.mean = row_sum(sum) / width;
  for (int i = row.first; i < width / N; i += row.step) {
    Values<T, N> a = load<T, N>(x + i * N);
#pragma unroll
    for (int j = 0; j < N; ++j) squares += (a.at[j] - moments.mean) * (a.at[j] - moments.mean);
  }
  moments.r = 1.0f / sqrtf(row_sum(squares) / width + eps);
  return moments;
}

template <typename T, int N>
__device__ void layer_norm_row(const T *x, const T *w, const T *b, T *y, Row row, int width, float eps) {
  Moments m = moments_of<T, N>(x, row, width, eps);
  for (int i = row.first; i < width / N; i += row.step) {
    Values<T, N> a = load<T, N>(x + i * N), scale = load<T, N>(w + i * N), shift = load<T, N>(b + i * N);
#pragma unroll
    for (int j = 0; j < N; ++j) a.at[j] = (a.at[j] - m.mean) * m.r * scale.at[j] + shift.at[j];
    store<T, N>(y + i * N, a);
  }
}

template <typename T>
__device__ void layer_norm(const T *x, const T *w, const T *b, T *y, int rows, int width, float eps) {
  Row row = this_row();
  if (row.index >= rows) return;
  size_t at = (size_t)row.index * width;
  if (width % Wide<T>::N == 0 && is_aligned(x) && is_aligned(w) && is_aligned(b) && is_aligned(y))
    layer_norm_row<T, Wide<T>::N>(x + at, w, b, y + at, row, width, eps);
  else
    layer_norm_row<T, 1>(x + at, w, b, y + at, row, width, eps);
}

// With n = (x - mean) r and g = gy w: gx = r (g - mean(g) - n mean(g n)).
struct LayerNorm {
  template <typename T, int N>
  static __device__ Moments grad_row(const T *x, const T *w, const T *gy, T *gx, Row row, int width, float eps) {
    Moments m = moments_of<T, N>(x, row, width, eps);
    float sum = 0.0f, products = 0.0f;
    for (int i = row.first; i < width / N; i += row.step) {
      Values<T, N> a = load<T, N>(x + i * N), b = load<T, N>(w + i * N), g = load<T, N>(gy + i * N);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        sum += g.at[j] * b.at[j];
        products += g.at[j] * b.at[j] * (a.at[j] - m.mean);
      }
    }
    float g_mean = row_sum(sum) / width, gn_mean = row_sum(products) * m.r * m.r / width;
    for (int i = row.first; i < width / N; i += row.step) {
      Values<T, N> a = load<T, N>(x + i * N), b = load<T, N>(w + i * N), g = load<T, N>(gy + i * N);
#pragma unroll
      for (int j = 0; j < N; ++j)
        a.at[j] = m.r * (g.at[j] * b.at[j] - g_mean - (a.at[j] - m.mean) * gn_mean);
      store<T, N>(gx + i * N, a);
    }
    return m;
  }
};

template <typename T>
__device__ void layer_norm_grad(const T *x, const T *w, const T *gy, T *gx, float *moments, int rows, int width, float eps) {
  norm_grad<LayerNorm>(x, w, gy, gx, moments, rows, width, eps);
}

// Sums gy (x - mean) r and gy over the `chunk` rows of blockIdx.y: partial (chunks, 2, width). A thread has a column, so that
// neighbours read neighbouring values, and the order of additions is always the same.
template <typename T>
__device__ void norm_weight_grad(const T *x, const T *gy, const float *moments, float *partial, int rows, int width, int chunk) {
  int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= width) return;
  int begin = blockIdx.y * chunk, end = begin + chunk < rows ? begin + chunk : rows;
  float by_weight = 0.0f, by_bias = 0.0f;
  for (int row = begin; row < end; ++row) {
    size_t at = (size_t)row * width + column;
    float g = widened(gy[at]);
    by_weight += g * (widened(x[at]) - moments[2 * row]) * moments[2 * row + 1];
    by_bias += g;
  }
  float *out = partial + (size_t)blockIdx.y * 2 * width;
  out[column] = by_weight;
  out[width + column] = by_bias;
}

// Sums partial (chunks, 2, width) over the chunks, in order: the gradients of the weight and of the bias, (2, width).
template <typename T> __device__ void sum_chunks(const float *partial, T *out, int chunks, int width) {
  int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= 2 * width) return;
  float total = 0.0f;
  for (int chunk = 0; chunk < chunks; ++chunk) total += partial[(size_t)chunk * 2 * width + column];
  out[column] = narrowed<T>(total);
}

// ---- Softmax of scores (rows, width) times `scale` over the columns from..to that a row's query sees; row r is of the query
// r % queries, whose columns are sights (queries, 2). Columns that it does not see get 0.

template <typename T, int N>
__device__ void softmax_row(const T *scores, T *weights, Row row, int width, int from, int to, float scale) {
  float largest = -INFINITY, sum = 0.0f;
  for (int i = row.first; i < width / N; i += row.step) {
    if ((i + 1) * N <= from || i * N >= to) continue;
    Values<T, N> a = load<T, N>(scores + i * N);
#pragma unroll
    for (int j = 0; j < N; ++j)
      if (i * N + j >= from && i * N + j < to) largest = fmaxf(largest, a.at[j] * scale);
  }
  largest = row_all<Largest>(largest);
  for (int i = row.first; i < width / N; i += row.step) {
    if ((i + 1) * N <= from || i * N >= to) continue;
    Values<T, N> a = load<T, N>(scores + i * N);
#pragma unroll
    for (int j = 0; j < N; ++j)
      if (i * N + j >= from && i * N + j < to) sum += expf(a.at[j] * scale - largest);
  }
  float inverse = 1.0f / row_sum(sum);
  for (int i = row.first; i < width / N; i += row.step) {
    Values<T, N> a = load<T, N>(scores + i * N);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      bool is_seen = i * N + j >= from && i * N + j < to;
      a.at[j] = is_seen ? expf(a.at[j] * scale - largest) * inverse : 0.0f;
    }
    store<T, N>(weights + i * N, a);
  }
}

template <typename T>
__device__ void softmax(const T *scores, const unsigned *sights, T *weights, int rows, int width, int queries, float scale) {
  Row row = this_row();
  if (row.index >= rows) return;
  size_t at = (size_t)row.index * width;
  int query = row.index % queries, from = sights[2 * query], to = sights[2 * query + 1];
  if (width % Wide<T>::N == 0 && is_aligned(scores) && is_aligned(weights))
    softmax_row<T, Wide<T>::N>(scores + at, weights + at, row, width, from, to, scale);
  else
    softmax_row<T, 1>(scores + at, weights + at, row, width, from, to, scale);
}

// With weights p of a row and their gradient g: scale p (g - sum(p g)), the gradient of the scores.
template <typename T, int N>
__device__ void softmax_grad_row(const T *weights, const T *by_weights, T *by_scores, Row row, int width, float scale) {
  float products = 0.0f;
  for (int i = row.first; i < width / N; i += row.step) {
    Values<T, N> p = load<T, N>(weights + i * N), g = load<T, N>(by_weights + i * N);
#pragma unroll
    for (int j = 0; j < N; ++j) products += p.at[j] * g.at[j];
  }
  products = row_sum(products);
  for (int i = row.first; i < width / N; i += row.step) {
    Values<T, N> p = load<T, N>(weights + i * N), g = load<T, N>(by_weights + i * N);
#pragma unroll
    for (int j = 0; j < N; ++j) p.at[j] *= scale * (g.at[j] - products);
    store<T, N>(by_scores + i * N, p);
  }
}

template <typename T>
__device__ void softmax_grad(const T *weights, const T *by_weights, T *by_scores, int rows, int width, float scale) {
  Row row = this_row();
  if (row.index >= rows) return;
  size_t at = (size_t)row.index * width;
  if (width % Wide<T>::N == 0 && is_aligned(weights) && is_aligned(by_weights) && is_aligned(by_scores))
    softmax_grad_row<T, Wide<T>::N>(weights + at, by_weights + at, by_scores + at, row, width, scale);
  else
    softmax_grad_row<T, 1>(weights + at, by_weights + at, by_scores + at, row, width, scale);
}

// ---- Rotary embedding of x (tokens, heads, 2 half) by cos and sin (tokens, half); sign -1 turns back.

template <typename T, int N>
__device__ void rope_pairs(const T *x, const float *cosines, const float *sines, T *y, long long pair, int heads, int half, float sign) {
  long long head = pair / half;
  int column = (int)(pair % half);
  size_t angle = (size_t)(head / heads) * half + column, at = (size_t)head * 2 * half + column;
  Values<T, N> a = load<T, N>(x + at), b = load<T, N>(x + at + half), first, second;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    float c = cosines[angle + j], s = sign * sines[angle + j];
    first.at[j] = a.at[j] * c - b.at[j] * s;
    second.at[j] = b.at[j] * c + a.at[j] * s;
  }
  store<T, N>(y + at, first);
  store<T, N>(y + at + half, second);
}

// A thread has N pairs.
template <typename T>
__device__ void rope(const T *x, const float *cosines, const float *sines, T *y, int tokens, int heads, int half, float sign) {
  long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x, pairs = (long long)tokens * heads * half;
  const int N = Wide<T>::N;
  if (half % N == 0 && is_aligned(x) && is_aligned(y)) {
    if (thread * N < pairs) rope_pairs<T, N>(x, cosines, sines, y, thread * N, heads, half, sign);
    return;
  }
  for (int j = 0; j < N && thread * N + j < pairs; ++j)
    rope_pairs<T, 1>(x, cosines, sines, y, thread * N + j, heads, half, sign);
}

// ---- Activations, element by element. A thread has N of them.

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

struct Silu {
  static __device__ float value(float x) { return x * sigmoid(x); }
  static __device__ float slope(float x) {
    float s = sigmoid(x);
    return s + x * s * (1.0f - s);
  }
};

struct QuickGelu {
  static __device__ float value(float x) { return x * sigmoid(1.702f * x); }
  static __device__ float slope(float x) {
    float s = sigmoid(1.702f * x);
    return s + 1.702f * x * s * (1.0f - s);
  }
};

// (1 + tanh u) / 2 is sigmoid(2 u); 1.5957692 is 2 sqrt(2 / pi).
struct GeluTanh {
  static __device__ float value(float x) { return x * sigmoid(1.5957692f * x * (1.0f + 0.044715f * x * x)); }
  static __device__ float slope(float x) {
    float s = sigmoid(1.5957692f * x * (1.0f + 0.044715f * x * x));
    return s + x * s * (1.0f - s) * 1.5957692f * (1.0f + 3.0f * 0.044715f * x * x);
  }
};

// 0.70710678 is 1 / sqrt(2), 0.39894228 is 1 / sqrt(2 pi). erfc keeps the digits of a small Phi.
struct Gelu {
  static __device__ float value(float x) { return x * 0.5f * erfcf(-x * 0.70710678f); }
  static __device__ float slope(float x) {
    return 0.5f * erfcf(-x * 0.70710678f) + x * 0.39894228f * expf(-0.5f * x * x);
  }
};

// Calls f(first, number of values) as often as this thread's share of n values takes.
template <typename T, int N, typename F> __device__ void each_share(long long n, bool aligned, F f) {
  long long begin = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (aligned && begin + N <= n) {
    f.template at<N>(begin);
    return;
  }
  for (long long i = begin; i < begin + N && i < n; ++i) f.template at<1>(i);
}

template <typename T, typename A> struct Forward {
  const T *x;
  T *y;
  template <int N> __device__ void at(long long i) {
    Values<T, N> a = load<T, N>(x + i);
#pragma unroll
    for (int j = 0; j < N; ++j) a.at[j] = A::value(a.at[j]);
    store<T, N>(y + i, a);
  }
};

template <typename T, typename A> struct Backward {
  const T *x, *gy;
  T *gx;
  template <int N> __device__ void at(long long i) {
    Values<T, N> a = load<T, N>(x + i), g = load<T, N>(gy + i);
#pragma unroll
    for (int j = 0; j < N; ++j) a.at[j] = A::slope(a.at[j]) * g.at[j];
    store<T, N>(gx + i, a);
  }
};

template <typename T, typename A> __device__ void activate(const T *x, T *y, long long n) {
  Forward<T, A> f = {x, y};
  each_share<T, Wide<T>::N>(n, is_aligned(x) && is_aligned(y), f);
}

template <typename T, typename A> __device__ void activate_grad(const T *x, const T *gy, T *gx, long long n) {
  Backward<T, A> f = {x, gy, gx};
  each_share<T, Wide<T>::N>(n, is_aligned(x) && is_aligned(gy) && is_aligned(gx), f);
}

template <typename T> __device__ void silu(const T *x, T *y, long long n) { activate<T, Silu>(x, y, n); }
template <typename T> __device__ void quick_gelu(const T *x, T *y, long long n) { activate<T, QuickGelu>(x, y, n); }
template <typename T> __device__ void gelu_tanh(const T *x, T *y, long long n) { activate<T, GeluTanh>(x, y, n); }
template <typename T> __device__ void gelu(const T *x, T *y, long long n) { activate<T, Gelu>(x, y, n); }
template <typename T> __device__ void silu_grad(const T *x, const T *gy, T *gx, long long n) { activate_grad<T, Silu>(x, gy, gx, n); }
template <typename T> __device__ void quick_gelu_grad(const T *x, const T *gy, T *gx, long long n) { activate_grad<T, QuickGelu>(x, gy, gx, n); }
template <typename T> __device__ void gelu_tanh_grad(const T *x, const T *gy, T *gx, long long n) { activate_grad<T, GeluTanh>(x, gy, gx, n); }
template <typename T> __device__ void gelu_grad(const T *x, const T *gy, T *gx, long long n) { activate_grad<T, Gelu>(x, gy, gx, n); }

// silu(gate) up.
template <typename T> struct SwiGlu {
  const T *gate, *up;
  T *y;
  template <int N> __device__ void at(long long i) {
    Values<T, N> a = load<T, N>(gate + i), b = load<T, N>(up + i);
#pragma unroll
    for (int j = 0; j < N; ++j) a.at[j] = Silu::value(a.at[j]) * b.at[j];
    store<T, N>(y + i, a);
  }
};

template <typename T> struct SwiGluGrad {
  const T *gate, *up, *gy;
  T *ggate, *gup;
  template <int N> __device__ void at(long long i) {
    Values<T, N> a = load<T, N>(gate + i), b = load<T, N>(up + i), g = load<T, N>(gy + i);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float by_gate = g.at[j] * b.at[j] * Silu::slope(a.at[j]);
      b.at[j] = g.at[j] * Silu::value(a.at[j]);
      a.at[j] = by_gate;
    }
    store<T, N>(ggate + i, a);
    store<T, N>(gup + i, b);
  }
};

template <typename T> __device__ void swiglu(const T *gate, const T *up, T *y, long long n) {
  SwiGlu<T> f = {gate, up, y};
  each_share<T, Wide<T>::N>(n, is_aligned(gate) && is_aligned(up) && is_aligned(y), f);
}

template <typename T> __device__ void swiglu_grad(const T *gate, const T *up, const T *gy, T *ggate, T *gup, long long n) {
  SwiGluGrad<T> f = {gate, up, gy, ggate, gup};
  bool aligned = is_aligned(gate) && is_aligned(up) && is_aligned(gy) && is_aligned(ggate) && is_aligned(gup);
  each_share<T, Wide<T>::N>(n, aligned, f);
}

// ---- x (rows, width), n values, plus a bias (width) on each row. A thread has N of them, all of one row.

template <typename T> struct AddBias {
  const T *x, *bias;
  T *y;
  int width;
  template <int N> __device__ void at(long long i) {
    Values<T, N> a = load<T, N>(x + i), b = load<T, N>(bias + i % width);
#pragma unroll
    for (int j = 0; j < N; ++j) a.at[j] += b.at[j];
    store<T, N>(y + i, a);
  }
};

template <typename T> __device__ void add_bias(const T *x, const T *bias, T *y, long long n, int width) {
  AddBias<T> f = {x, bias, y, width};
  bool aligned = width % Wide<T>::N == 0 && is_aligned(x) && is_aligned(bias) && is_aligned(y);
  each_share<T, Wide<T>::N>(n, aligned, f);
}

// ---- AdamW (arXiv 1711.05101): weights, gradients and moments of n values in, weights and moments out. A thread has N of them.

template <typename T> struct AdamW {
  const T *w, *g, *m, *v;
  T *next_w, *next_m, *next_v;
  float beta1, beta2, epsilon, root_correction, rate, decay, scale;
  template <int N> __device__ void at(long long i) {
    Values<T, N> a = load<T, N>(w + i), b = load<T, N>(g + i), c = load<T, N>(m + i), d = load<T, N>(v + i);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float by_weight = b.at[j] * scale;
      c.at[j] += (by_weight - c.at[j]) * (1.0f - beta1);
      d.at[j] = d.at[j] * beta2 + by_weight * by_weight * (1.0f - beta2);
      float root = sqrtf(d.at[j]) / root_correction + epsilon;
      a.at[j] = a.at[j] * decay - rate * (c.at[j] / root);
    }
    store<T, N>(next_w + i, a);
    store<T, N>(next_m + i, c);
    store<T, N>(next_v + i, d);
  }
};

template <typename T>
__device__ void adamw(const T *w, const T *g, const T *m, const T *v, T *next_w, T *next_m, T *next_v, long long n, float beta1,
                      float beta2, float epsilon, float root_correction, float rate, float decay, float scale) {
  AdamW<T> f = {w, g, m, v, next_w, next_m, next_v, beta1, beta2, epsilon, root_correction, rate, decay, scale};
  bool aligned = is_aligned(w) && is_aligned(g) && is_aligned(m) && is_aligned(v);
  each_share<T, Wide<T>::N>(n, aligned && is_aligned(next_w) && is_aligned(next_m) && is_aligned(next_v), f);
}

// ---- Each for each type: name_type.

#define KERNELS(T)                                                                                                              \
  KERNEL(rms_norm, T, (const T *x, const T *w, T *y, int rows, int width, float eps), (x, w, y, rows, width, eps))              \
  KERNEL(rms_norm_grad, T,                                                                                                      \
         (const T *x, const T *w, const T *gy, T *gx, float *moments, int rows, int width, float eps),                          \
         (x, w, gy, gx, moments, rows, width, eps))                                                                             \
  KERNEL(layer_norm, T, (const T *x, const T *w, const T *b, T *y, int rows, int width, float eps),                             \
         (x, w, b, y, rows, width, eps))                                                                                        \
  KERNEL(layer_norm_grad, T,                                                                                                    \
         (const T *x, const T *w, const T *gy, T *gx, float *moments, int rows, int width, float eps),                          \
         (x, w, gy, gx, moments, rows, width, eps))                                                                             \
  KERNEL(norm_weight_grad, T,                                                                                                   \
         (const T *x, const T *gy, const float *moments, float *partial, int rows, int width, int chunk),                       \
         (x, gy, moments, partial, rows, width, chunk))                                                                         \
  KERNEL(sum_chunks, T, (const float *partial, T *out, int chunks, int width), (partial, out, chunks, width))                   \
  KERNEL(softmax, T,                                                                                                            \
         (const T *scores, const unsigned *sights, T *weights, int rows, int width, int queries, float scale),                  \
         (scores, sights, weights, rows, width, queries, scale))                                                                \
  KERNEL(softmax_grad, T, (const T *weights, const T *by_weights, T *by_scores, int rows, int width, float scale),              \
         (weights, by_weights, by_scores, rows, width, scale))                                                                  \
  KERNEL(rope, T,                                                                                                               \
         (const T *x, const float *cosines, const float *sines, T *y, int tokens, int heads, int half, float sign),             \
         (x, cosines, sines, y, tokens, heads, half, sign))                                                                     \
  KERNEL(silu, T, (const T *x, T *y, long long n), (x, y, n))                                                                   \
  KERNEL(quick_gelu, T, (const T *x, T *y, long long n), (x, y, n))                                                             \
  KERNEL(gelu_tanh, T, (const T *x, T *y, long long n), (x, y, n))                                                              \
  KERNEL(gelu, T, (const T *x, T *y, long long n), (x, y, n))                                                                   \
  KERNEL(silu_grad, T, (const T *x, const T *gy, T *gx, long long n), (x, gy, gx, n))                                           \
  KERNEL(quick_gelu_grad, T, (const T *x, const T *gy, T *gx, long long n), (x, gy, gx, n))                                     \
  KERNEL(gelu_tanh_grad, T, (const T *x, const T *gy, T *gx, long long n), (x, gy, gx, n))                                      \
  KERNEL(gelu_grad, T, (const T *x, const T *gy, T *gx, long long n), (x, gy, gx, n))                                           \
  KERNEL(swiglu, T, (const T *gate, const T *up, T *y, long long n), (gate, up, y, n))                                          \
  KERNEL(swiglu_grad, T, (const T *gate, const T *up, const T *gy, T *ggate, T *gup, long long n), (gate, up, gy, ggate, gup, n)) \
  KERNEL(add_bias, T, (const T *x, const T *bias, T *y, long long n, int width), (x, bias, y, n, width))

KERNELS(f32)
KERNELS(f16)
KERNELS(bf16)

// What trains is float32.
KERNEL(adamw, f32,
       (const f32 *w, const f32 *g, const f32 *m, const f32 *v, f32 *next_w, f32 *next_m, f32 *next_v, long long n, float beta1,
        float beta2, float epsilon, float root_correction, float rate, float decay, float scale),
       (w, g, m, v, next_w, next_m, next_v, n, beta1, beta2, epsilon, root_correction, rate, decay, scale))
