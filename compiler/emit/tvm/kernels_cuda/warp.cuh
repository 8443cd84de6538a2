// What the kernels ask of the machine: numbers of 16 bits, 16-byte accesses, asynchronous copies, tensor cores.
//
// This file is for the GPU (compute capability 8.0 and later, in PTX). tests/support/cuda_on_host.h defines the same
// names for a processor, so that tests run the kernels as they stand.

#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

struct Half { unsigned short bits; };
struct Bfloat { unsigned short bits; };

// 16 bytes, which one access moves.
struct __align__(16) Sixteen { unsigned words[4]; };

static __device__ __forceinline__ float widened(float number) { return number; }

static __device__ __forceinline__ float widened(Half number) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(number.bits));
  return result;
}

static __device__ __forceinline__ float widened(Bfloat number) {
  return __uint_as_float((unsigned)number.bits << 16);
}

// To the nearest number, ties to even. What is too large for a Half is infinite.
template <class T> static __device__ __forceinline__ T narrowed(float number);

template <> __device__ __forceinline__ float narrowed<float>(float number) { return number; }

template <> __device__ __forceinline__ Half narrowed<Half>(float number) {
  Half result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(number));
  return result;
}

template <> __device__ __forceinline__ Bfloat narrowed<Bfloat>(float number) {
  Bfloat result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(number));
  return result;
}

static __device__ __forceinline__ Sixteen read16(const void* from) { return *(const Sixteen*)from; }
static __device__ __forceinline__ void write16(void* to, Sixteen value) { *(Sixteen*)to = value; }

// Starts a copy of 16 bytes from global to shared memory; zeros where `present` is false, and then nothing is read.
static __device__ __forceinline__ void copy_async(void* to, const void* from, bool present) {
  const unsigned address = (unsigned)__cvta_generic_to_shared(to);
  const int size = present ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(from), "r"(size));
}

// Ends a group of copies.
static __device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;\n" ::); }

// Waits for all of this thread's groups but the latest MOST.
template <int MOST> static __device__ __forceinline__ void wait_for() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(MOST));
}

// Four 8 x 8 matrices of 16-bit numbers. Lanes 8 i to 8 i + 7 point at the rows of matrix i, 16 bytes each in shared
// memory. Of every matrix, lane l gets columns 2 (l % 4) and the next of row l / 4.
static __device__ __forceinline__ void load_matrices(unsigned (&result)[4], const void* row) {
  const unsigned address = (unsigned)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
               : "r"(address));
}

// sum (16 x 8, float32) += a (16 x 16) b (16 x 8), by one warp. Lane l has of the sum columns 2 (l % 4) and the next of
// rows l / 4 and l / 4 + 8; of a, the matrices (rows, columns) top left, bottom left, top right, bottom right, and of
// the transposed b those of its first and last 8 columns, as load_matrices gives them.
template <class T>
static __device__ __forceinline__ void multiply_add(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);

#define DETC_MULTIPLY_ADD(T, NAME)                                                                            \
  template <>                                                                                                 \
  __device__ __forceinline__ void multiply_add<T>(float (&sum)[4], const unsigned (&a)[4], unsigned b0,       \
                                                  unsigned b1) {                                              \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." NAME "." NAME                                       \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"                     \
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                             \
  }
DETC_MULTIPLY_ADD(Half, "f16")
DETC_MULTIPLY_ADD(Bfloat, "bf16")
