// What CUDA kernels ask of the machine, on a processor: the threads of a block are fibers that take turns, one block
// after the other. What is undefined on a GPU is refused here: barriers that some threads do not reach, 16-byte
// accesses that are not aligned or leave the arrays that were handed over, shared memory read before its copy is waited
// for (the copy is done no sooner).
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(n) alignas(n)
using std::max;
using std::min;

struct Index { int x; };
static Index threadIdx, blockIdx, blockDim;

namespace host {
struct Barrier { int arrived = 0, generation = 0; };
struct Copy { void* to; const void* from; bool present; };
struct Lane { unsigned a[4], b[2]; const void* row; bool flag; };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done = false;
  std::vector<std::vector<Copy>> groups;  // committed
  std::vector<Copy> open;
};
constexpr size_t STACK = 64 << 10;

static std::vector<Fiber> fibers;
static std::vector<Barrier> warps;
static std::vector<Lane> lanes[2];
static Barrier block;
static ucontext_t scheduler;
static int running, alive;
static bool progress;
static char failure[256];
static std::function<void()> body;
static std::vector<unsigned char> memory;
static std::map<const char*, size_t> arrays;

static void yield() {
  const int mine = running;
  swapcontext(&fibers[mine].context, &scheduler);
}

[[noreturn]] static void fail(const char* why) {
  if (!failure[0]) snprintf(failure, sizeof failure, "%s (block %d, thread %d)", why, blockIdx.x, threadIdx.x);
  for (;;) yield();
}

static void wait(Barrier& barrier, int count) {
  const int generation = barrier.generation;
  progress = true;
  if (++barrier.arrived == count) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  while (barrier.generation == generation) yield();
}

// Hands a lane's arguments to its warp; then all of the warp's.
static const Lane* exchange(const Lane& mine) {
  const int thread = threadIdx.x, warp = thread / 32;
  std::vector<Lane>& slots = lanes[warps[warp].generation % 2];
  slots[thread] = mine;
  wait(warps[warp], 32);
  return &slots[warp * 32];
}

static void check(const void* at, const char* what) {
  if ((uintptr_t)at % 16) fail("a 16-byte access is not aligned");
  const char* place = (const char*)at;
  if (place >= (char*)memory.data() && place + 16 <= (char*)memory.data() + memory.size()) return;
  auto array = arrays.upper_bound(place);
  if (array != arrays.begin() && place + 16 <= (--array)->first + array->second) return;
  const char* own = fibers[running].stack.get();
  if (place >= own && place + 16 <= own + STACK) return;
  fail(what);
}

static void start() {
  body();
  fibers[running].done = true;
  --alive;
  progress = true;
  // Those that wait for a thread that has ended wait no longer.
  if (alive && block.arrived == alive) {
    block.arrived = 0;
    ++block.generation;
  }
  yield();
}

// Runs a kernel; what was wrong, or nullptr. Shared memory begins as what no kernel wrote: numbers that are none.
static const char* launch(int blocks, int threads, int shared, std::function<void()> kernel) {
  body = kernel;
  failure[0] = 0;
  blockDim.x = threads;
  memory.resize(shared + 128);
  warps.resize((threads + 31) / 32);
  for (auto& slots : lanes) slots.resize((threads + 31) / 32 * 32);
  fibers.resize(threads);
  for (blockIdx.x = 0; blockIdx.x < blocks && !failure[0]; ++blockIdx.x) {
    std::fill(memory.begin(), memory.end(), 0xff);
    block = Barrier();
    std::fill(warps.begin(), warps.end(), Barrier());
    alive = threads;
    for (auto& fiber : fibers) {
      if (!fiber.stack) fiber.stack.reset(new char[STACK]);
      fiber.done = false;
      fiber.groups.clear();
      fiber.open.clear();
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = STACK;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, start, 0);
    }
    while (alive && !failure[0]) {
      progress = false;
      for (running = 0; running < threads && !failure[0]; ++running) {
        if (fibers[running].done) continue;
        threadIdx.x = running;
        swapcontext(&scheduler, &fibers[running].context);
      }
      if (!progress && !failure[0]) snprintf(failure, sizeof failure, "threads wait for one another for ever");
    }
  }
  fibers.clear();
  return failure[0] ? failure : nullptr;
}

static float power(int exponent) { return std::ldexp(1.0f, exponent); }
}  // namespace host

#define DYNAMIC_SHARED(name) \
  unsigned char* name = (unsigned char*)(((uintptr_t)host::memory.data() + 127) / 128 * 128)

static void __syncthreads() { host::wait(host::block, host::alive); }
static void __syncwarp() { host::exchange({}); }
static unsigned __ballot_sync(unsigned, bool flag) {
  host::Lane mine = {};
  mine.flag = flag;
  const host::Lane* all = host::exchange(mine);
  unsigned result = 0;
  for (int lane = 0; lane < 32; ++lane) result |= (unsigned)all[lane].flag << lane;
  return result;
}
static int __popc(unsigned bits) { return __builtin_popcount(bits); }
static unsigned __float_as_uint(float number) {
  unsigned bits;
  memcpy(&bits, &number, 4);
  return bits;
}
static float __uint_as_float(unsigned bits) {
  float number;
  memcpy(&number, &bits, 4);
  return number;
}
// One fiber runs at a time: nothing comes between.
template <class T> static T atomicAdd(T* where, T value) {
  const T before = *where;
  *where += value;
  return before;
}
static void atomicMin(int* where, int value) { *where = std::min(*where, value); }

struct Half { unsigned short bits; };
struct Bfloat { unsigned short bits; };
struct alignas(16) Sixteen { unsigned words[4]; };

static float widened(float number) { return number; }
static float widened(Half number) {
  const int sign = number.bits >> 15, exponent = number.bits >> 10 & 31, rest = number.bits & 1023;
  float size = exponent == 31 ? (rest ? NAN : INFINITY)
               : exponent     ? (1024 + rest) * host::power(exponent - 25)
                              : rest * host::power(-24);
  return sign ? -size : size;
}
static float widened(Bfloat number) { return __uint_as_float((unsigned)number.bits << 16); }

template <class T> static T narrowed(float number);
template <> float narrowed<float>(float number) { return number; }
template <> Half narrowed<Half>(float number) {
  const unsigned short sign = std::signbit(number) ? 0x8000 : 0;
  const float size = std::fabs(number);
  if (std::isnan(number)) return {0x7fff};
  if (size >= 65520.0f) return {(unsigned short)(sign | 0x7c00)};
  // Multiples of the distance between neighbours; nearbyint rounds ties to even. A carry into the exponent is right.
  const int exponent = std::max(size > 0 ? std::ilogb(size) : -14, -14);
  const int multiple = (int)std::nearbyint(size * host::power(10 - exponent));
  return {(unsigned short)(sign | (((exponent + 14) << 10) + multiple))};
}
template <> Bfloat narrowed<Bfloat>(float number) {
  unsigned bits = __float_as_uint(number);
  if (std::isnan(number)) return {0x7fff};
  bits += 0x7fff + (bits >> 16 & 1);
  return {(unsigned short)(bits >> 16)};
}

static Sixteen read16(const void* from) {
  host::check(from, "16 bytes are read outside of all arrays");
  Sixteen value;
  memcpy(&value, from, 16);
  return value;
}
static void write16(void* to, Sixteen value) {
  host::check(to, "16 bytes are written outside of all arrays");
  memcpy(to, &value, 16);
}

static void copy_async(void* to, const void* from, bool present) {
  host::check(to, "16 bytes are copied to outside of shared memory");
  if (present) host::check(from, "16 bytes are copied from outside of all arrays");
  host::fibers[threadIdx.x].open.push_back({to, from, present});
}
static void commit() {
  auto& fiber = host::fibers[threadIdx.x];
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}
template <int MOST> static void wait_for() {
  auto& groups = host::fibers[threadIdx.x].groups;
  while ((int)groups.size() > MOST) {
    for (const auto& copy : groups.front()) {
      if (copy.present) memcpy(copy.to, copy.from, 16);
      else memset(copy.to, 0, 16);
    }
    groups.erase(groups.begin());
  }
}

static void load_matrices(unsigned (&result)[4], const void* row) {
  host::check(row, "a matrix is read outside of shared memory");
  host::Lane mine = {};
  mine.row = row;
  const host::Lane* all = host::exchange(mine);
  const int lane = threadIdx.x % 32;
  for (int matrix = 0; matrix < 4; ++matrix)
    memcpy(&result[matrix], (const char*)all[matrix * 8 + lane / 4].row + lane % 4 * 4, 4);
}

template <class T>
static void multiply_add(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  const host::Lane* all = host::exchange({{a[0], a[1], a[2], a[3]}, {b0, b1}, nullptr, false});
  const int lane = threadIdx.x % 32;
  auto number = [](unsigned word, int which) { return widened(T{(unsigned short)(word >> 16 * which)}); };
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4, half = i / 2, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k)
      sum[i] += number(all[row * 4 + k % 8 / 2].a[half + k / 8 * 2], k % 2) *
                number(all[column * 4 + k % 8 / 2].b[k / 8], k % 2);
  }
}

// An array that kernels may access by 16 bytes, until `forget_arrays`.
extern "C" void know_array(const char* begin, long long bytes) { host::arrays[begin] = bytes; }
extern "C" void forget_arrays() { host::arrays.clear(); }
