// The highest of each row of numbers, best first; of equal ones those that come first in the row.
//
// A block takes a row. Numbers become keys whose order as integers is theirs. The key of the last one that is chosen is
// found digit by digit, from a histogram of those that have the digits found before; what is above it is taken, and of
// what equals it as many as there is room for; and these few are sorted in shared memory.

enum { DIGIT = 11, BINS = 1 << DIGIT };

// (Zero has one key, whatever its sign. What is no number is above all that are.)
static __device__ __forceinline__ unsigned key_of(float number) {
  const unsigned bits = __float_as_uint(number + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ float number_of(unsigned key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// Counts the keys that begin with `prefix` (where `known` has ones) by their digit at `shift`, and sets `digit` to that
// of the one that `wanted` - 1 are above, `above` to how many have higher ones, and `same` to how many have it.
static __device__ void find_digit(const float* row, int length, unsigned prefix, unsigned known, int shift, int wanted,
                                  unsigned* bins, unsigned* sums, unsigned* digit, unsigned* above, unsigned* same) {
  for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x) bins[bin] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < length; i += blockDim.x) {
    const unsigned key = key_of(row[i]);
    if ((key & known) == prefix) atomicAdd(&bins[key >> shift & (BINS - 1)], 1u);
  }
  __syncthreads();
  // Of each bin, how many are in it and in those after it.
  for (int step = 1; step < BINS; step *= 2) {
    for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x)
      sums[bin] = bins[bin] + (bin + step < BINS ? bins[bin + step] : 0);
    __syncthreads();
    unsigned* const other = bins;
    bins = sums;
    sums = other;
  }
  for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x) {
    const unsigned after = bin + 1 < BINS ? bins[bin + 1] : 0;
    if (after < (unsigned)wanted && bins[bin] >= (unsigned)wanted) {
      *digit = bin;
      *above = after;
      *same = bins[bin] - after;
    }
  }
  __syncthreads();
}

extern "C" __global__ void __launch_bounds__(1024)
detc_top(const float* numbers, float* best, long long* index, int length, int count, int capacity) {
  DYNAMIC_SHARED(memory);
  unsigned long long* const chosen = (unsigned long long*)memory;  // `capacity`, a power of two that holds `count`
  __shared__ unsigned histogram[2][BINS], before[32], digit, above, same, taken;
  const int thread = threadIdx.x, threads = blockDim.x;
  const float* row = numbers + (long long)blockIdx.x * length;
  for (int i = thread; i < capacity; i += threads) chosen[i] = 0;  // below all keys
  if (thread == 0) taken = 0;
  __syncthreads();
  if (count == length) {
    for (int i = thread; i < length; i += threads)
      chosen[i] = (unsigned long long)key_of(row[i]) << 32 | (0xffffffffu - i);
  } else {
    unsigned last = 0, known = 0;
    int wanted = count;
    for (int shift = 32 - DIGIT; ; shift = shift > DIGIT ? shift - DIGIT : 0) {
      find_digit(row, length, last, known, shift, wanted, histogram[0], histogram[1], &digit, &above, &same);
      last |= digit << shift;
      known |= (unsigned)(BINS - 1) << shift;
      wanted -= above;
      if (shift == 0) break;
    }
    // Where all that equal the last one are wanted, it does not matter which comes first.
    const bool all = same == (unsigned)wanted;
    unsigned ties = 0;
    for (int first = 0; first < length; first += threads) {
      const int i = first + thread;
      const unsigned key = i < length ? key_of(row[i]) : 0;
      const unsigned long long entry = (unsigned long long)key << 32 | (0xffffffffu - i);
      if (i < length && (key > last || (all && key == last))) chosen[atomicAdd(&taken, 1u)] = entry;
      if (all || ties >= (unsigned)wanted) continue;
      const bool tie = i < length && key == last;
      const unsigned lanes = __ballot_sync(0xffffffffu, tie);
      if (thread % 32 == 0) before[thread / 32] = __popc(lanes);
      __syncthreads();
      unsigned place = ties + __popc(lanes & ((1u << thread % 32) - 1));
      for (int warp = 0; warp < threads / 32; ++warp) {
        if (warp < thread / 32) place += before[warp];
        ties += before[warp];
      }
      if (tie && place < (unsigned)wanted) chosen[atomicAdd(&taken, 1u)] = entry;
      __syncthreads();
    }
  }
  __syncthreads();
  // A bitonic sort, highest first.
  for (int size = 2; size <= capacity; size *= 2) {
    for (int step = size / 2; step > 0; step /= 2) {
      for (int i = thread; i < capacity / 2; i += threads) {
        const int low = (i & ~(step - 1)) << 1 | (i & (step - 1)), high = low + step;
        const bool descending = (low & size) == 0;
        const unsigned long long one = chosen[low], other = chosen[high];
        if ((one < other) == descending) {
          chosen[low] = other;
          chosen[high] = one;
        }
      }
      __syncthreads();
    }
  }
  best += (long long)blockIdx.x * count;
  index += (long long)blockIdx.x * count;
  for (int i = thread; i < count; i += threads) {
    best[i] = number_of((unsigned)(chosen[i] >> 32));
    index[i] = 0xffffffffu - (unsigned)chosen[i];
  }
}
