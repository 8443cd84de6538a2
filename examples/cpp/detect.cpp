// Finds objects in an image with an exported detector, without Python:
//
//     detect MODEL.detc IMAGE.ppm TVM_LIB_FOLDER [LEAST_SCORE]
//
// prints a line for each: class, score, x1, y1, x2, y2 in pixels of the image. Images are binary PPM (`P6`), which any
// tool writes; a program of yours will have its own pixels.

#include <cstdio>
#include <exception>
#include <utility>

#include "artifact.h"

namespace {

struct Image {
  int width = 0, height = 0;
  std::vector<unsigned char> pixels;  // red, green, blue
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
  image.pixels.resize(3 * static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.height));
  file.read(reinterpret_cast<char*>(image.pixels.data()), static_cast<std::streamsize>(image.pixels.size()));
  if (!file) throw std::runtime_error(path + " is cut short");
  return image;
}

int run(const std::string& model, const std::string& picture, const std::string& runtime, double least) {
  detc::Detector detector(model, runtime);
  Image image = read_ppm(picture);
  if (detector.order() == "bgr")
    for (std::size_t at = 0; at < image.pixels.size(); at += 3) std::swap(image.pixels[at], image.pixels[at + 2]);
  detector.run(image.pixels, image.height, image.width);
  auto boxes = detector.result<float>("boxes");
  auto scores = detector.result<float>("scores");
  auto classes = detector.result<std::int64_t>("classes");
  const auto& names = detector.manifest()["classes"].items();
  for (std::size_t row = 0; row < scores.values.size(); ++row) {
    // By falling score; absent ones, with class -1, are last.
    if (classes.values[row] < 0 || scores.values[row] <= 0 || scores.values[row] < least) continue;
    const float* box = boxes.values.data() + 4 * row;
    const std::string& name = names.at(static_cast<std::size_t>(classes.values[row])).string();
    std::printf("%s\t%.6f\t%.3f\t%.3f\t%.3f\t%.3f\n", name.c_str(), scores.values[row], box[0], box[1], box[2], box[3]);
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
