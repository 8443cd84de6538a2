// Greedy non-maximum suppression. A block takes an image, and its candidates as many at a time as it has threads, one
// each. Each first meets all boxes kept before this portion; then the best that is left is kept, and the others of the
// portion meet it, until none is left.

struct Box { float x1, y1, x2, y2; };

static __device__ bool overlap(const Box a, const Box b, float iou) {
  float width = fminf(a.x2, b.x2) - fmaxf(a.x1, b.x1);
  float height = fminf(a.y2, b.y2) - fmaxf(a.y1, b.y1);
  float shared = fmaxf(width, 0.0f) * fmaxf(height, 0.0f);
  float both = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - shared;
  return shared / both > iou;
}

extern "C" __global__ void detc_suppress(const Box* boxes, const float* scores, const long long* classes,
                                         Box* kept_boxes, float* kept_scores, long long* kept_classes, int candidates,
                                         int keep, float iou) {
  __shared__ int kept, next;
  const int thread = threadIdx.x, threads = blockDim.x;
  boxes += blockIdx.x * (long long)candidates;
  scores += blockIdx.x * (long long)candidates;
  classes += blockIdx.x * (long long)candidates;
  kept_boxes += blockIdx.x * (long long)keep;
  kept_scores += blockIdx.x * (long long)keep;
  kept_classes += blockIdx.x * (long long)keep;
  for (int k = thread; k < keep; k += threads) {
    kept_boxes[k] = Box{0.0f, 0.0f, 0.0f, 0.0f};
    kept_scores[k] = 0.0f;
    kept_classes[k] = -1;
  }
  if (thread == 0) kept = 0;
  __syncthreads();
  for (int first = 0; first < candidates; first += threads) {
    const int mine = first + thread;
    bool alive = mine < candidates && scores[mine] > 0.0f;
    Box box = {0.0f, 0.0f, 0.0f, 0.0f};
    long long label = -1;
    if (alive) {
      box = boxes[mine];
      label = classes[mine];
    }
    const int before = kept;
    for (int k = 0; alive && k < before; ++k) alive = !(kept_classes[k] == label && overlap(kept_boxes[k], box, iou));
    while (true) {
      __syncthreads();
      if (thread == 0) next = threads;
      __syncthreads();
      if (alive) atomicMin(&next, thread);
      __syncthreads();
      const int chosen = next, slot = kept;
      if (chosen == threads || slot == keep) break;
      __syncthreads();
      if (thread == chosen) {
        kept_boxes[slot] = box;
        kept_scores[slot] = scores[mine];
        kept_classes[slot] = label;
        kept = slot + 1;
        alive = false;
      }
      __syncthreads();
      if (alive && kept_classes[slot] == label && overlap(kept_boxes[slot], box, iou)) alive = false;
    }
    __syncthreads();
    if (kept == keep) break;
  }
}
