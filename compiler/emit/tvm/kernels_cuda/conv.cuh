// Convolutions as implicit matrix products on tensor cores, sums in float32.
//
// Rows of the product are the pixels of all results, columns the output channels of one group, and the reduction runs
// over the kernel's rows, columns and input channels, the last being next to each other in memory. A block computes a
// tile of the result. Slices of both factors, DEPTH long, come into shared memory, STAGES of them on their way at once;
// nothing is written out in between: a pixel's place in the image is computed as it is read, and what lies in the
// padding is zeros.

enum Options { BIAS = 1, RELU = 2, RESIDUAL = 4, RESIDUAL_WIDE = 8, RESULT_WIDE = 16 };

struct Layer {
  int images, height, width, channels;  // of what is read: (images, height, width, channels)
  int rows, columns, outputs;           // of the result: (images, rows, columns, outputs)
  int kernel_height, kernel_width, stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x;
  int groups, depth;  // input channels of a group; weights (outputs, depth * kernel cells, rounded up to 8)
  int residual_height, residual_width;  // (images, these, outputs), stretched over the result by nearest cells
  int splits, options;                  // parts of the reduction, that are summed by another kernel

  __device__ int pixels() const { return images * rows * columns; }
  __device__ int packed() const { return (kernel_height * kernel_width * depth + 7) / 8 * 8; }
};

// The numbers, 8 of them from `from` on; `count` of them, and zeros, where they do not lie at a multiple of 16 bytes.
template <class T>
static __device__ __forceinline__ void read8(float (&values)[8], const T* from, int count, bool whole) {
  if (whole) {
    Sixteen parts[sizeof(T) / 2];
#pragma unroll
    for (int i = 0; i < (int)sizeof(T) / 2; ++i) parts[i] = read16(from + i * (16 / sizeof(T)));
#pragma unroll
    for (int j = 0; j < 8; ++j) values[j] = widened(((const T*)parts)[j]);
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) values[j] = j < count ? widened(from[j]) : 0.0f;
  }
}

template <class T>
static __device__ __forceinline__ void write8(T* to, const float (&values)[8], int count, bool whole) {
  if (whole) {
    Sixteen parts[sizeof(T) / 2];
#pragma unroll
    for (int j = 0; j < 8; ++j) ((T*)parts)[j] = narrowed<T>(values[j]);
#pragma unroll
    for (int i = 0; i < (int)sizeof(T) / 2; ++i) write16(to + i * (16 / sizeof(T)), parts[i]);
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j)
      if (j < count) to[j] = narrowed<T>(values[j]);
  }
}

// What follows the sums: bias, residual and ReLU, for `count` channels from `channel` on of one pixel.
template <class T>
static __device__ __forceinline__ void finish(const Layer& layer, const float* bias, const void* residual, void* result,
                                              int pixel, int channel, int count, float (&values)[8]) {
  const bool whole = count == 8 && layer.outputs % 8 == 0 && channel % 8 == 0;
  if (layer.options & BIAS) {
#pragma unroll
    for (int j = 0; j < 8; ++j)
      if (j < count) values[j] += bias[channel + j];
  }
  if (layer.options & RESIDUAL) {
    long long from = pixel;
    if (layer.residual_height != layer.rows || layer.residual_width != layer.columns) {
      const int image = pixel / (layer.rows * layer.columns), cell = pixel % (layer.rows * layer.columns);
      const int y = cell / layer.columns * layer.residual_height / layer.rows;
      const int x = cell % layer.columns * layer.residual_width / layer.columns;
      from = ((long long)image * layer.residual_height + y) * layer.residual_width + x;
    }
    from = from * layer.outputs + channel;
    float others[8];
    if (layer.options & RESIDUAL_WIDE)
      read8(others, (const float*)residual + from, count, whole);
    else
      read8(others, (const T*)residual + from, count, whole);
#pragma unroll
    for (int j = 0; j < 8; ++j) values[j] += others[j];
  }
  if (layer.options & RELU) {
#pragma unroll
    for (int j = 0; j < 8; ++j) values[j] = values[j] < 0.0f ? 0.0f : values[j];  // (which keeps what is no number)
  }
  const long long to = (long long)pixel * layer.outputs + channel;
  if (layer.options & RESULT_WIDE)
    write8((float*)result + to, values, count, whole);
  else
    write8((T*)result + to, values, count, whole);
}

// Factors of 16-bit numbers T. The input is In: T, or float32, which is rounded as it is read. If
// CHUNKED, input channels of a group are a multiple of 8, and In is T: 16 bytes are then always of one kernel cell.
template <class T, class In, bool CHUNKED, int PIXELS, int OUTPUTS, int DEPTH, int WARPS_M, int WARPS_N, int STAGES>
struct Convolution {
  static constexpr int THREADS = WARPS_M * WARPS_N * 32;
  static constexpr int WARP_PIXELS = PIXELS / WARPS_M, WARP_OUTPUTS = OUTPUTS / WARPS_N;
  static constexpr int CHUNKS = DEPTH / 8;         // of 16 bytes, in a row of a slice
  static constexpr int TOGETHER = THREADS / CHUNKS;  // rows that all threads fill at once
  static constexpr int EACH_PIXELS = PIXELS / TOGETHER, EACH_OUTPUTS = OUTPUTS / TOGETHER;
  static constexpr int SLICE = (PIXELS + OUTPUTS) * DEPTH * 2;
  static constexpr int STRIP = WARP_OUTPUTS + 8;  // floats in a row of what a warp finishes at a time
  static_assert(DEPTH == 32 || DEPTH == 64, "rows of 64 or 128 bytes");
  static_assert(PIXELS % TOGETHER == 0 && OUTPUTS % TOGETHER == 0, "threads fill whole slices");
  static_assert(WARP_PIXELS % 16 == 0 && WARP_OUTPUTS % 16 == 0, "warps compute whole fragments");
  static_assert(WARPS_M * WARPS_N * 16 * STRIP * 4 <= STAGES * SLICE, "results pass through the slices' memory");

  // Where a chunk lies in a slice: permuted such that eight rows' chunks of one column lie in different banks.
  static __device__ __forceinline__ int place(int row, int chunk) {
    return (row * CHUNKS + (chunk ^ (DEPTH == 64 ? row & 7 : row >> 1 & 3))) * 16;
  }

  static __device__ __forceinline__ void run(const Layer& layer, const In* x, const T* weight, const float* bias,
                                             const void* residual, void* result) {
    DYNAMIC_SHARED(memory);
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int per_group = layer.outputs / layer.groups, packed = layer.packed(), pixels = layer.pixels();

    // Neighbouring blocks have the same pixels, whose values they find in the cache.
    int block = blockIdx.x;
    const int across = (per_group + OUTPUTS - 1) / OUTPUTS;
    const int first_output = block % across * OUTPUTS;
    block /= across;
    const int group = block % layer.groups;
    block /= layer.groups;
    const int split = block % layer.splits;
    const int first_pixel = block / layer.splits * PIXELS;
    const int slices = (packed + DEPTH - 1) / DEPTH, share = (slices + layer.splits - 1) / layer.splits;
    const int begin = split * share, count = max(min(share, slices - begin), 0);

    // What this thread copies: one column of chunks, some rows. Of each pixel, its place and the input's first cell.
    const int chunk = thread % CHUNKS, first_row = thread / CHUNKS;
    int offset[EACH_PIXELS], top[EACH_PIXELS], left[EACH_PIXELS];
#pragma unroll
    for (int i = 0; i < EACH_PIXELS; ++i) {
      const int pixel = first_pixel + first_row + i * TOGETHER;
      const int image = pixel / (layer.rows * layer.columns), cell = pixel % (layer.rows * layer.columns);
      top[i] = cell / layer.columns * layer.stride_y - layer.padding_y;
      left[i] = cell % layer.columns * layer.stride_x - layer.padding_x;
      offset[i] = ((image * layer.height + top[i]) * layer.width + left[i]) * layer.channels + group * layer.depth;
      if (pixel >= pixels) top[i] = -0x40000000;  // far outside of the image
    }
    // The place in the reduction, as a kernel cell and a channel.
    int inner = begin * DEPTH + chunk * 8;
    int channel = inner % layer.depth, s = inner / layer.depth % layer.kernel_width;
    int r = inner / layer.depth / layer.kernel_width;
    const T* weights = weight + (long long)group * per_group * packed;

    auto copy = [&](int stage) {
      unsigned char* slice = memory + stage * SLICE;
      if (CHUNKED) {
        const int shift = (r * layer.dilation_y * layer.width + s * layer.dilation_x) * layer.channels + channel;
#pragma unroll
        for (int i = 0; i < EACH_PIXELS; ++i) {
          const bool present = r < layer.kernel_height &&
                               (unsigned)(top[i] + r * layer.dilation_y) < (unsigned)layer.height &&
                               (unsigned)(left[i] + s * layer.dilation_x) < (unsigned)layer.width;
          copy_async(slice + place(first_row + i * TOGETHER, chunk), x + (present ? offset[i] + shift : 0), present);
        }
      } else {
#pragma unroll
        for (int i = 0; i < EACH_PIXELS; ++i) {
          Sixteen values;
          int row = r, column = s, c = channel;
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            const int down = row * layer.dilation_y, right = column * layer.dilation_x;
            const bool present = row < layer.kernel_height && (unsigned)(top[i] + down) < (unsigned)layer.height &&
                                 (unsigned)(left[i] + right) < (unsigned)layer.width;
            const int from = offset[i] + (down * layer.width + right) * layer.channels + c;
            ((T*)&values)[j] = narrowed<T>(present ? widened(x[from]) : 0.0f);
            if (++c == layer.depth) {
              c = 0;
              if (++column == layer.kernel_width) column = 0, ++row;
            }
          }
          write16(slice + place(first_row + i * TOGETHER, chunk), values);
        }
      }
#pragma unroll
      for (int i = 0; i < EACH_OUTPUTS; ++i) {
        const int output = first_output + first_row + i * TOGETHER;
        const bool present = inner < packed && output < per_group;
        const T* from = weights + (present ? (long long)output * packed + inner : 0);
        copy_async(slice + PIXELS * DEPTH * 2 + place(first_row + i * TOGETHER, chunk), from, present);
      }
      inner += DEPTH;
      channel += DEPTH;
      while (channel >= layer.depth && r < layer.kernel_height) {
        channel -= layer.depth;
        if (++s == layer.kernel_width) s = 0, ++r;
      }
    };

    float sums[WARP_PIXELS / 16][WARP_OUTPUTS / 8][4];
#pragma unroll
    for (int i = 0; i < WARP_PIXELS / 16; ++i)
#pragma unroll
      for (int j = 0; j < WARP_OUTPUTS / 8; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k) sums[i][j][k] = 0.0f;

#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage) {
      if (stage < count) copy(stage);
      commit();
    }
    const int warp_pixel = warp / WARPS_N * WARP_PIXELS, warp_output = warp % WARPS_N * WARP_OUTPUTS;
    int now = 0, next = STAGES - 1;
    for (int step = 0; step < count; ++step) {
      wait_for<STAGES - 2>();
      __syncthreads();
      if (step + STAGES - 1 < count) copy(next);
      commit();
      const unsigned char* slice = memory + now * SLICE;
#pragma unroll
      for (int k = 0; k < CHUNKS; k += 2) {
        unsigned a[WARP_PIXELS / 16][4], b[WARP_OUTPUTS / 16][4];
#pragma unroll
        for (int i = 0; i < WARP_PIXELS / 16; ++i)
          load_matrices(a[i], slice + place(warp_pixel + i * 16 + lane % 16, k + lane / 16));
#pragma unroll
        for (int j = 0; j < WARP_OUTPUTS / 16; ++j)
          load_matrices(b[j], slice + PIXELS * DEPTH * 2 +
                                  place(warp_output + j * 16 + lane % 8 + lane / 16 * 8, k + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < WARP_PIXELS / 16; ++i)
#pragma unroll
          for (int j = 0; j < WARP_OUTPUTS / 8; ++j)
            multiply_add<T>(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
      now = now + 1 == STAGES ? 0 : now + 1;
      next = next + 1 == STAGES ? 0 : next + 1;
    }
    wait_for<0>();
    __syncthreads();

    // Each warp turns 16 pixels of its sums at a time, in memory of its own, into runs of 8 channels.
    Layer written = layer;
    if (layer.splits > 1) {
      written.options = RESULT_WIDE;
      result = (float*)result + (long long)split * pixels * layer.outputs;
    }
    float* strip = (float*)memory + warp * 16 * STRIP;
#pragma unroll
    for (int i = 0; i < WARP_PIXELS / 16; ++i) {
#pragma unroll
      for (int j = 0; j < WARP_OUTPUTS / 8; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k)
          strip[(lane / 4 + k / 2 * 8) * STRIP + j * 8 + lane % 4 * 2 + k % 2] = sums[i][j][k];
      __syncwarp();
#pragma unroll 1
      for (int run = lane; run < 16 * (WARP_OUTPUTS / 8); run += 32) {
        const int row = run / (WARP_OUTPUTS / 8), column = run % (WARP_OUTPUTS / 8) * 8;
        const int pixel = first_pixel + warp_pixel + i * 16 + row, output = first_output + warp_output + column;
        if (pixel < pixels && output < per_group) {
          float values[8];
          read8(values, strip + row * STRIP + column, 8, true);
          finish<T>(written, bias, residual, result, pixel, group * per_group + output, min(8, per_group - output),
                    values);
        }
      }
      __syncwarp();
    }
  }
};

// Adds up what the splits computed, (splits, pixels, outputs) float32, a thread for each run of 8 channels.
template <class T>
static __device__ __forceinline__ void sum_splits(const Layer& layer, const float* partial, const float* bias,
                                                  const void* residual, void* result) {
  const int runs = (layer.outputs + 7) / 8, pixels = layer.pixels();
  const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= (long long)pixels * runs) return;
  const int pixel = (int)(index / runs), channel = (int)(index % runs) * 8, count = min(8, layer.outputs - channel);
  float values[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
  for (int split = 0; split < layer.splits; ++split) {
    float part[8];
    read8(part, partial + ((long long)split * pixels + pixel) * layer.outputs + channel, count,
          layer.outputs % 8 == 0);
#pragma unroll
    for (int j = 0; j < 8; ++j) values[j] += part[j];
  }
  finish<T>(layer, bias, residual, result, pixel, channel, count, values);
}
