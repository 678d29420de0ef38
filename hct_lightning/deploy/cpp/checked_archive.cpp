// A TorchScript archive of a stranger's, written anew from what of it is known, as hct_lightning/deploy/checked/archive.py.
#include <caffe2/serialize/inline_container.h>

#include <algorithm>
#include <limits>
#include <string>

#include "checked.h"
#include "error.h"

namespace checked {
namespace {

bool only(std::string_view text, const char* letters) {
  return !text.empty() && text.find_first_not_of(letters) == std::string_view::npos;
}

// Refuses an archive whose parts together are larger than itself and a program: reading it could fill the memory.
Parts read(const std::filesystem::path& file) {
  caffe2::serialize::PyTorchStreamReader archive(file.string());
  const uint64_t size = std::filesystem::file_size(file);
  uint64_t inside = 0;
  for (const std::string& name : archive.getAllRecords()) {
    const uint64_t part = archive.getRecordSize(name);
    inside += std::min(part, std::numeric_limits<uint64_t>::max() - inside);
  }
  if (inside > size + 4 * kMost)
    throw Error(kArtifact, file.string() + " is no TorchScript archive: its parts are said to have " +
                               std::to_string(inside) + " bytes, it has " + std::to_string(size));
  Parts parts;
  for (const std::string& name : archive.getAllRecords()) {
    const auto [data, bytes] = archive.getRecord(name);
    parts[name] = std::string(static_cast<const char*>(data.get()), bytes);
  }
  return parts;
}

bool is_code(const std::string& name) {
  static constexpr char kLetters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/";
  return name.starts_with("code/") && name.ends_with(".py") && name.size() > 8 &&
         only(std::string_view(name).substr(5, name.size() - 8), kLetters) && name.find("//") == std::string::npos &&
         name[5] != '/' && name[name.size() - 4] != '/';
}

bool is_tensor(const std::string& name) {
  return name.starts_with("constants/") && only(std::string_view(name).substr(10), "0123456789");
}

bool is_made_anew(const std::string& name) {
  return name == ".data/version" || name == "version" || name == ".data/serialization_id" || name == "byteorder" ||
         name.ends_with(".debug_pkl");
}

const std::string& whole(const Parts& parts, const std::string& name) {
  static const std::string kNothing;
  const auto found = parts.find(name);
  const std::string& part = found == parts.end() ? kNothing : found->second;
  if (part.size() > kMost)
    throw Refused("its " + name + " has " + std::to_string(part.size()) + " bytes, no known network more than " +
                  std::to_string(kMost));
  return part;
}

// The name of the part that is the program.
std::string program(const Parts& parts) {
  std::string found;
  for (const auto& [name, part] : parts) {
    if (is_code(name) && !part.empty()) {
      if (!found.empty()) throw Refused("it has more than one program");
      found = name;
    } else if (!is_code(name) && !is_tensor(name) && !is_made_anew(name) && name != "data.pkl" && name != "constants.pkl") {
      throw Refused("its part " + name.substr(0, 100) + " is none that networks have");
    }
  }
  return found;
}

std::string written(const Parts& parts) {
  const auto newer = parts.find(".data/version"), older = parts.find("version"), order = parts.find("byteorder");
  std::string version = newer != parts.end() ? newer->second : older != parts.end() ? older->second : "";
  if (version.ends_with('\n')) version.pop_back();
  if (!only(version, "0123456789") || version.size() > 3 || (order != parts.end() && order->second != "little"))
    throw Refused("its version, or the order of its bytes, is none that torch writes here");
  std::string archive;
  caffe2::serialize::PyTorchStreamWriter writer([&](const void* data, size_t size) {
    archive.append(static_cast<const char*>(data), size);
    return size;
  });
  writer.setMinVersion(std::stoull(version));
  for (const auto& [name, part] : parts)
    if (!is_made_anew(name)) writer.writeRecord(name, part.data(), part.size());
  writer.writeEndOfFile();
  return archive;
}

}  // namespace

std::string known_parts(const std::filesystem::path& file) {
  Parts parts = read(file);
  try {
    const std::string code = program(parts);
    std::string module = code.empty() ? "" : code.substr(5, code.size() - 8);
    std::replace(module.begin(), module.end(), '/', '.');
    const auto [name, source] = check_code(whole(parts, code), module);
    std::string object = "\x80\x02" "c" + module + "\n" + name.substr(module.size() + 1) + "\nq";
    object += std::string("\0", 1) + ")\x81}(ubq\x01.";
    if (whole(parts, "data.pkl") != object) throw Refused("its network holds other values than its program's constants");
    Parts memories;
    for (const auto& [part, content] : parts)
      if (is_tensor(part)) memories[part.substr(10)] = content;
    check_constants(whole(parts, "constants.pkl"), memories);
    parts[code] = source;
    return written(parts);
  } catch (const Refused& reason) {
    throw Error(kArtifact, file.string() + " is refused: " + reason.what() +
                               "; export it again here, or if you trust who made it, add --trust");
  }
}

}  // namespace checked
