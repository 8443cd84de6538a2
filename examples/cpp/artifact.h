// An exported detector (`detc export --target llvm`) in C++: the file, its weights, its kernels.
//
// A `.detc` file is a zip archive without compression. `manifest.json` describes it, and has an entry for each batch and
// image size: a shared library for TVM's runtime. `weights.safetensors` has the arrays that all their functions take.
// Linux, little endian.
#pragma once

#include <dlfcn.h>
#include <tvm/ffi/container/shape.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "json.h"

namespace detc {

/// The members of a zip archive without compression. Throws std::runtime_error where it is cut short or compressed.
inline std::map<std::string, std::string> members(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " cannot be read");
  std::string data((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  auto number = [&](std::size_t at, int bytes) {
    std::uint64_t found = 0;
    if (at + static_cast<std::size_t>(bytes) > data.size()) throw std::runtime_error(path + " is cut short");
    std::memcpy(&found, data.data() + at, static_cast<std::size_t>(bytes));
    return found;
  };
  // The end of the directory is at the end of the file: detc writes no comment after it.
  if (data.size() < 22 || number(data.size() - 22, 4) != 0x06054b50)
    throw std::runtime_error(path + " is no .detc file, or cut short");
  std::size_t at = number(data.size() - 6, 4);
  std::map<std::string, std::string> found;
  for (auto left = number(data.size() - 12, 2); left > 0; --left) {
    if (number(at, 4) != 0x02014b50) throw std::runtime_error(path + " is damaged");
    auto method = number(at + 10, 2), size = number(at + 24, 4);
    auto name = number(at + 28, 2), start = number(at + 42, 4);
    if (method != 0) throw std::runtime_error(path + " is compressed, which a .detc file never is");
    auto content = start + 30 + number(start + 26, 2) + number(start + 28, 2);
    if (content + size > data.size()) throw std::runtime_error(path + " is cut short");
    found[data.substr(at + 46, name)] = data.substr(content, size);
    at += 46 + name + number(at + 30, 2) + number(at + 32, 2);
  }
  return found;
}

/// One array that a detector gives, in its whole shape.
template <typename T>
struct Array {
  std::vector<std::int64_t> shape;
  std::vector<T> values;
};

/// A detector for one image at a time, loaded and ready. Its kernels run on the CPU, on as many threads as
/// TVM_NUM_THREADS says. Images are of any size: the kernels fit them into the detector's own, and give boxes back.
class Detector {
 public:
  /// `runtime` is the folder of TVM's runtime libraries: `lib` of the Python package `tvm`, or where they were copied.
  Detector(const std::string& path, const std::string& runtime) {
    using tvm::ffi::Function;
    for (const char* name : {"libtvm_runtime.so", "libtvm_runtime_extra.so"}) {
      if (!dlopen((runtime + "/" + name).c_str(), RTLD_NOW | RTLD_GLOBAL)) throw std::runtime_error(dlerror());
    }
    auto files = members(path);
    manifest_ = Json::parse(files.at("manifest.json"));
    if (manifest_["target"].string() != "llvm")
      throw std::runtime_error(path + " is for " + manifest_["target"].string() + ", and not llvm");
    if (manifest_["format"].integer() != 2)
      throw std::runtime_error(path + " is in a format that this example does not read: export it again");
    for (const Json& entry : manifest_["entries"].items())
      if (entry["batch"].integer() == 1 && entry["inputs"].items().at(0)["name"].string() == "pixels") entry_ = entry;
    if (!entry_.has("file")) throw std::runtime_error(path + " takes no single images of any size");
    // Libraries are loaded from files alone.
    char place[] = "/tmp/detc-XXXXXX.so";
    int handle = mkstemps(place, 3);
    if (handle < 0) throw std::runtime_error("no temporary file can be made in /tmp");
    const std::string& library = files.at(entry_["file"].string());
    bool written = write(handle, library.data(), library.size()) == static_cast<ssize_t>(library.size());
    close(handle);
    if (written) module_ = tvm::ffi::Module::LoadFromFile(place);
    std::remove(place);
    if (!written) throw std::runtime_error("the kernels cannot be written to /tmp");
    machine_ = (*module_)->GetFunction("vm_load_executable").value()().cast<tvm::ffi::Module>();
    (*machine_)->GetFunction("vm_initialization").value()(static_cast<int>(kDLCPU), 0, 2);
    allocate_ = Function::GetGlobalRequired("runtime.TVMTensorAllocWithScope");
    copy_in_ = Function::GetGlobalRequired("runtime.TVMTensorCopyFromBytes");
    copy_out_ = Function::GetGlobalRequired("runtime.TVMTensorCopyToBytes");
    weights(files.at("weights.safetensors"));
  }

  /// What the file says of itself: `classes`, `entries`, `preprocessing` and more.
  const Json& manifest() const { return manifest_; }

  /// In which order pixels have their channels: "bgr" is blue, green, red.
  const std::string& order() const { return entry_["inputs"].items().at(0)["order"].string(); }

  /// Looks for objects in an image: `pixels` (height, width, 3), a row after the other.
  void run(const std::vector<unsigned char>& pixels, int height, int width) {
    if (height < 1 || width < 1 || pixels.size() != 3 * static_cast<std::size_t>(height) * static_cast<std::size_t>(width))
      throw std::runtime_error("the pixels are not as many as height x width x 3");
    const std::int64_t size[2] = {height, width};
    std::vector<tvm::ffi::Any> arguments{
        put({1, height, width, 3}, DLDataType{kDLUInt, 8, 1}, pixels.data(), pixels.size()),
        put({1, 2}, DLDataType{kDLInt, 64, 1}, size, sizeof(size))};
    for (const auto& weight : arguments_) arguments.push_back(weight);
    std::vector<tvm::ffi::AnyView> views(arguments.begin(), arguments.end());
    tvm::ffi::Any result;
    auto detect = (*machine_)->GetFunction("detect").value();
    detect.CallPacked(tvm::ffi::PackedArgs(views.data(), static_cast<std::int32_t>(views.size())), &result);
    results_ = result.cast<tvm::ffi::Array<tvm::ffi::Tensor>>();
  }

  /// What the last run gave under a name: float for boxes, scores and masks, std::int64_t for classes.
  template <typename T>
  Array<T> result(const std::string& name) const {
    const auto& outputs = entry_["outputs"].items();
    for (std::size_t index = 0; index < outputs.size(); ++index) {
      if (outputs[index]["name"].string() != name) continue;
      tvm::ffi::Tensor tensor = results_[static_cast<std::int64_t>(index)];
      Array<T> found;
      std::size_t count = 1;
      for (std::int64_t side : tensor.shape()) {
        found.shape.push_back(side);
        count *= static_cast<std::size_t>(side);
      }
      if (tensor.dtype().bits != 8 * sizeof(T)) throw std::runtime_error(name + " is of another type");
      found.values.resize(count);
      copy_out_(tensor, static_cast<void*>(found.values.data()), static_cast<std::int64_t>(count * sizeof(T)));
      return found;
    }
    throw std::runtime_error("the detector gives no \"" + name + "\"");
  }

 private:
  tvm::ffi::Tensor put(const std::vector<std::int64_t>& shape, DLDataType type, const void* data, std::size_t bytes) {
    auto tensor = allocate_(tvm::ffi::Shape(shape.begin(), shape.end()), type, DLDevice{kDLCPU, 0}, nullptr)
                      .cast<tvm::ffi::Tensor>();
    copy_in_(tensor, const_cast<void*>(data), static_cast<std::int64_t>(bytes));
    return tensor;
  }

  /// The arrays that `detect` takes after the pixels and their size, in its order: some as they are in the file, some
  /// that the kernels' function `prepare` makes of those, once.
  void weights(const std::string& file) {
    const Json& functions = entry_["functions"];
    std::map<std::string, tvm::ffi::Tensor> tensors;
    if (!entry_["prepared"].items().empty()) {
      std::vector<tvm::ffi::Any> given;
      for (const Json& name : functions["prepare"].items()) given.push_back(stored(file, name.string()));
      std::vector<tvm::ffi::AnyView> views(given.begin(), given.end());
      tvm::ffi::Any result;
      auto prepare = (*machine_)->GetFunction("prepare").value();
      prepare.CallPacked(tvm::ffi::PackedArgs(views.data(), static_cast<std::int32_t>(views.size())), &result);
      auto made = result.cast<tvm::ffi::Array<tvm::ffi::Tensor>>();
      std::int64_t at = 0;
      for (const Json& name : entry_["prepared"].items()) tensors.emplace(name.string(), made[at++]);
    }
    for (const Json& name : functions["detect"].items()) {
      auto found = tensors.find(name.string());
      arguments_.push_back(found != tensors.end() ? found->second : stored(file, name.string()));
    }
  }

  /// An array of the file of weights. Safetensors: a length, a description, the data.
  tvm::ffi::Tensor stored(const std::string& file, const std::string& name) {
    if (described_.members().empty()) {
      std::uint64_t length = 0;
      if (file.size() < 8) throw std::runtime_error("the weights are cut short");
      std::memcpy(&length, file.data(), 8);
      if (length > file.size() - 8) throw std::runtime_error("the weights are cut short");
      described_ = Json::parse(file.substr(8, length));
      start_ = 8 + length;
    }
    const std::map<std::string, DLDataType> types{
        {"F32", {kDLFloat, 32, 1}}, {"F16", {kDLFloat, 16, 1}}, {"I64", {kDLInt, 64, 1}}, {"I32", {kDLInt, 32, 1}},
        {"U16", {kDLUInt, 16, 1}},  {"U8", {kDLUInt, 8, 1}},    {"BOOL", {kDLBool, 8, 1}}};
    const Json& weight = described_[name];
    std::vector<std::int64_t> shape;
    for (const Json& side : weight["shape"].items()) shape.push_back(side.integer());
    auto first = static_cast<std::uint64_t>(weight["data_offsets"].items().at(0).integer());
    auto last = static_cast<std::uint64_t>(weight["data_offsets"].items().at(1).integer());
    if (first > last || last > file.size() - start_) throw std::runtime_error("the weights are cut short");
    return put(shape, types.at(weight["dtype"].string()), file.data() + start_ + first, last - first);
  }

  Json manifest_, entry_, described_;
  std::uint64_t start_ = 0;
  std::optional<tvm::ffi::Module> module_, machine_;
  tvm::ffi::Function allocate_, copy_in_, copy_out_;
  std::vector<tvm::ffi::Tensor> arguments_;
  tvm::ffi::Array<tvm::ffi::Tensor> results_;
};

}  // namespace detc
