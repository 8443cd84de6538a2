/* AMX's tile registers in memory, for processors without them: what compiler/emit/tvm/tiles.py calls. */
#include <stdint.h>
#include <string.h>

typedef struct {
  int rows, bytes;
  uint8_t data[16][64];
} Tile;

static __thread Tile tiles[8];
static __thread int ready;

static float real(uint16_t bits) {
  uint32_t whole = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &whole, 4);
  return value;
}

static void load(Tile* tile, const uint8_t* from, int64_t apart) {
  for (int row = 0; row < tile->rows; ++row) memcpy(tile->data[row], from + row * apart, (size_t)tile->bytes);
}

static void add(Tile* sum, const Tile* a, const Tile* b) {
  for (int m = 0; m < sum->rows; ++m)
    for (int k = 0; k < a->bytes / 4; ++k)
      for (int n = 0; n < sum->bytes / 4; ++n) {
        float value;
        uint16_t x[2], y[2];
        memcpy(&value, &sum->data[m][4 * n], 4);
        memcpy(x, &a->data[m][4 * k], 4);
        memcpy(y, &b->data[k][4 * n], 4);
        value += real(x[0]) * real(y[0]) + real(x[1]) * real(y[1]);
        memcpy(&sum->data[m][4 * n], &value, 4);
      }
}

int32_t detc_tiles_allow(void) { return 0; }

int32_t detc_tiles_begin(const uint8_t* shapes) {
  if (shapes[0] != 1) __builtin_trap();
  memset(tiles, 0xFF, sizeof(tiles));
  for (int i = 0; i < 8; ++i) {
    tiles[i].bytes = shapes[16 + 2 * i] | shapes[17 + 2 * i] << 8;
    tiles[i].rows = shapes[48 + i];
    if (tiles[i].bytes > 64 || tiles[i].rows > 16) __builtin_trap();
  }
  ready = 1;
  return 0;
}

int32_t detc_tiles_end(void) {
  ready = 0;
  return 0;
}

int32_t detc_tiles_clear(void) {
  if (!ready) __builtin_trap();
  for (int i = 0; i < 4; ++i) memset(tiles[i].data, 0, sizeof(tiles[i].data));
  return 0;
}

int32_t detc_tiles_add(const uint8_t* a, const uint8_t* b, int64_t apart, const uint8_t* weights) {
  if (!ready) __builtin_trap();
  load(&tiles[4], a, apart);
  load(&tiles[5], b, apart);
  load(&tiles[6], weights, 64);
  load(&tiles[7], weights + 1024, 64);
  for (int i = 0; i < 4; ++i) add(&tiles[i], &tiles[4 + i / 2], &tiles[6 + i % 2]);
  return 0;
}

int32_t detc_tiles_store(uint8_t* sums, int64_t apart) {
  for (int i = 0; i < 4; ++i)
    for (int row = 0; row < tiles[i].rows; ++row)
      memcpy(sums + apart * i + 64 * row, tiles[i].data[row], (size_t)tiles[i].bytes);
  return 0;
}
