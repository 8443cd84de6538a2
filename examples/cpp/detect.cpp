// Finds objects in an image with an exported detector, without Python:
//
//     detect MODEL.detc IMAGE.ppm TVM_LIB_FOLDER [LEAST_SCORE]
//
// prints a line for each: class, score, x1, y1, x2, y2 in pixels of the image. Images are binary PPM (`P6`), which any
// tool writes; a program of yours will have its own pixels.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>

#include "artifact.h"

namespace {

struct Image {
  int width = 0, height = 0;
  std::vector<unsigned char> pixels;  // red, green, blue

  std::size_t at(int y, int x, int channel) const {
    return 3 * (static_cast<std::size_t>(y) * static_cast<std::size_t>(width) + static_cast<std::size_t>(x)) +
           static_cast<std::size_t>(channel);
  }
  void allocate() { pixels.resize(3 * static_cast<std::size_t>(width) * static_cast<std::size_t>(height)); }
};

Image read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  Image image;
  int most = 0;
  file >> magic >> image.width >> image.height >> most;
  if (magic != "P6" || most != 255 || image.width < 1 || image.height < 1 || image.width > 65535 || image.height > 65535)
    throw std::runtime_error(path + " is no binary PPM of 8 bits a channel");
  file.get();
  image.allocate();
  file.read(reinterpret_cast<char*>(image.pixels.data()), static_cast<std::streamsize>(image.pixels.size()));
  if (!file) throw std::runtime_error(path + " is cut short");
  return image;
}

/// The image scaled bilinearly, pixel centres on pixel centres, as OpenCV does.
Image scaled(const Image& image, int width, int height) {
  if (width == image.width && height == image.height) return image;
  Image made{width, height, {}};
  made.allocate();
  auto place = [](int at, int size, int whole, int& low, int& high) {
    double source = (at + 0.5) * whole / size - 0.5;
    low = std::clamp(static_cast<int>(std::floor(source)), 0, whole - 1);
    high = std::min(low + 1, whole - 1);
    return std::clamp(source - low, 0.0, 1.0);
  };
  for (int y = 0; y < height; ++y) {
    int top, bottom;
    double down = place(y, height, image.height, top, bottom);
    for (int x = 0; x < width; ++x) {
      int left, right;
      double across = place(x, width, image.width, left, right);
      for (int c = 0; c < 3; ++c) {
        auto pixel = [&](int row, int column) { return image.pixels[image.at(row, column, c)]; };
        double upper = pixel(top, left) * (1 - across) + pixel(top, right) * across;
        double lower = pixel(bottom, left) * (1 - across) + pixel(bottom, right) * across;
        made.pixels[made.at(y, x, c)] = static_cast<unsigned char>(std::lround(upper * (1 - down) + lower * down));
      }
    }
  }
  return made;
}

int run(const std::string& model, const std::string& picture, const std::string& runtime, double least) {
  detc::Detector detector(model, runtime);
  const detc::Json& manifest = detector.manifest();
  const auto& shape = manifest["inputs"].items().at(0)["shape"].items();
  if (manifest["inputs"].items().size() > 1 || shape.at(0).integer() != 1)
    throw std::runtime_error("this example takes detectors of one image at a time, and nothing else");
  const int height = static_cast<int>(shape.at(2).integer()), width = static_cast<int>(shape.at(3).integer());

  // Fitted into the detector's size, keeping the ratio; zeros, which are the mean, to the right and below.
  Image original = read_ppm(picture);
  double factor = std::min(static_cast<double>(width) / original.width, static_cast<double>(height) / original.height);
  auto side = [&](int length) { return std::max(1, static_cast<int>(length * factor + 0.5)); };
  Image image = scaled(original, side(original.width), side(original.height));
  const detc::Json& normalize = manifest["preprocessing"]["normalize"];
  const bool bgr = normalize["order"].string() == "bgr";
  const std::size_t plane = static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
  std::vector<float> input(3 * plane, 0.0f);
  for (int c = 0; c < 3; ++c) {
    const auto channel = static_cast<std::size_t>(c);
    const auto mean = static_cast<float>(normalize["mean"].items().at(channel).number());
    const auto scale = static_cast<float>(1 / normalize["std"].items().at(channel).number());
    for (int y = 0; y < image.height; ++y) {
      float* row = input.data() + channel * plane + static_cast<std::size_t>(y) * static_cast<std::size_t>(width);
      for (int x = 0; x < image.width; ++x)
        row[x] = (static_cast<float>(image.pixels[image.at(y, x, bgr ? 2 - c : c)]) - mean) * scale;
    }
  }

  detector.run(input);
  auto boxes = detector.result<float>("boxes");
  auto scores = detector.result<float>("scores");
  auto classes = detector.result<std::int64_t>("classes");
  const auto& names = manifest["classes"].items();
  const double across = static_cast<double>(original.width) / image.width;
  const double down = static_cast<double>(original.height) / image.height;
  for (std::size_t row = 0; row < scores.values.size(); ++row) {
    // By falling score; absent ones, with class -1, are last.
    if (classes.values[row] < 0 || scores.values[row] <= 0 || scores.values[row] < least) continue;
    const float* box = boxes.values.data() + 4 * row;
    auto x = [&](float value) { return std::clamp(value * across, 0.0, static_cast<double>(original.width)); };
    auto y = [&](float value) { return std::clamp(value * down, 0.0, static_cast<double>(original.height)); };
    const std::string& name = names.at(static_cast<std::size_t>(classes.values[row])).string();
    std::printf("%s\t%.6f\t%.3f\t%.3f\t%.3f\t%.3f\n", name.c_str(), scores.values[row], x(box[0]), y(box[1]), x(box[2]),
                y(box[3]));
  }
  return 0;
}

}  // namespace

int main(int count, char** words) {
  if (count < 4 || count > 5) {
    std::fprintf(stderr, "usage: detect MODEL.detc IMAGE.ppm TVM_LIB_FOLDER [LEAST_SCORE]\n");
    return 2;
  }
  try {
    return run(words[1], words[2], words[3], count == 5 ? std::atof(words[4]) : 0.3);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "detect: %s\n", error.what());
    return 1;
  }
}
