// RoIAlign. A block takes one row of cells of one region, a thread every so many channels of it.

struct Axis { int before, after; float share; bool counts; };

static __device__ Axis detc_between(float place, int length) {
  Axis axis = {0, 0, 0.0f, place >= -1.0f && place <= (float)length};
  if (axis.counts) {
    place = fminf(fmaxf(place, 0.0f), (float)(length - 1));
    axis.before = (int)floorf(place);
    axis.after = min(axis.before + 1, length - 1);
    axis.share = place - floorf(place);
  }
  return axis;
}

static __device__ int detc_points(float side, int samples) {
  if (samples > 0) return samples;
  return side > 0.0f && side < 1048576.0f ? (int)ceilf(side) : 0;
}

// `levels` has the height and width of each level's feature and the pixels between its cells. Numbers of features and
// cells are T; sums are float32.
template <class T>
static __device__ __forceinline__ void cut_out(const T* const (&features)[8], const float* levels, const float* boxes,
                                               const long long* level, T* cells, int regions, int channels, int size,
                                               int samples) {
  const int region = blockIdx.x / size, y = blockIdx.x % size, which = (int)level[region];
  const int height = (int)levels[which * 3], width = (int)levels[which * 3 + 1];
  const float stride = levels[which * 3 + 2];
  const T* feature = features[which] + (long long)(region / regions) * height * width * channels;
  const float* box = boxes + region * 4LL;
  const float left = box[0] / stride - 0.5f, top = box[1] / stride - 0.5f;
  const float wide = (box[2] / stride - box[0] / stride) / size, high = (box[3] / stride - box[1] / stride) / size;
  const int columns = detc_points(wide, samples), rows = detc_points(high, samples);
  const float share = 1.0f / fmaxf((float)rows, 1.0f) / fmaxf((float)columns, 1.0f);
  for (int x = 0; x < size; ++x) {
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
      float total = 0.0f;
      for (int i = 0; i < rows; ++i) {
        const Axis v = detc_between(top + y * high + (i + 0.5f) * (high / rows), height);
        if (!v.counts) continue;
        const T* above = feature + (long long)v.before * width * channels + c;
        const T* below = feature + (long long)v.after * width * channels + c;
        for (int j = 0; j < columns; ++j) {
          const Axis u = detc_between(left + x * wide + (j + 0.5f) * (wide / columns), width);
          if (!u.counts) continue;
          const int a = u.before * channels, b = u.after * channels;
          total += (1.0f - v.share) * ((1.0f - u.share) * widened(above[a]) + u.share * widened(above[b])) +
                   v.share * ((1.0f - u.share) * widened(below[a]) + u.share * widened(below[b]));
        }
      }
      cells[((long long)blockIdx.x * size + x) * channels + c] = narrowed<T>(total * share);
    }
  }
}
