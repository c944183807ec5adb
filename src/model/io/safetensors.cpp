#include "fusion/model/io/safetensors.h"

#include "fusion/base/error.h"
#include "fusion/base/json.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <set>

namespace fusion {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

constexpr uint64_t kLengthBytes = 8, kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxRank = 64;  // no ATen operator takes more

struct DtypeRow {
  const char* name;
  at::ScalarType type;
};
// In the format's own rank: writers order tensors by it, falling.
constexpr std::array kDtypes = std::to_array<DtypeRow>({{"BOOL", at::kBool},
                                                        {"U8", at::kByte},
                                                        {"I8", at::kChar},
                                                        {"F8_E5M2", at::kFloat8_e5m2},
                                                        {"F8_E4M3", at::kFloat8_e4m3fn},
                                                        {"I16", at::kShort},
                                                        {"U16", at::kUInt16},
                                                        {"F16", at::kHalf},
                                                        {"BF16", at::kBFloat16},
                                                        {"I32", at::kInt},
                                                        {"U32", at::kUInt32},
                                                        {"F32", at::kFloat},
                                                        {"C64", at::kComplexFloat},
                                                        {"F64", at::kDouble},
                                                        {"I64", at::kLong},
                                                        {"U64", at::kUInt64}});

size_t dtype_rank(at::ScalarType dtype) {
  const auto row = std::find_if(kDtypes.begin(), kDtypes.end(), [&](const DtypeRow& r) { return r.type == dtype; });
  FUSION_CHECK(row != kDtypes.end(), "safetensors: the format has no type for {} tensors", c10::toString(dtype));
  return static_cast<size_t>(row - kDtypes.begin());
}

std::optional<at::ScalarType> dtype_from_name(std::string_view name) {
  for (const DtypeRow& row : kDtypes)
    if (name == row.name) return row.type;
  return std::nullopt;
}

bool multiply(uint64_t a, uint64_t b, uint64_t& product) { return !__builtin_mul_overflow(a, b, &product); }

/// Takes the header's events one by one, so that no tree of foreign JSON exists. Levels: 1 the header, 2 an entry, 3 its shape or offsets.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(std::map<std::string, SafetensorsFile::Entry>& entries, Metadata& metadata) : entries_(entries), metadata_(metadata) {}

  const std::string& problem() const { return problem_; }

  bool start_object(std::size_t) override {
    if (++depth_ == 1) return true;
    if (depth_ != 2) return refuse("nested too deeply");
    fields_ = {};
    return true;
  }
  bool end_object() override {
    --depth_;
    return depth_ == 0 || in_metadata() || finish_entry();
  }
  bool start_array(std::size_t) override {
    if (++depth_ != 3 || in_metadata() || (field_ != "shape" && field_ != "data_offsets")) return refuse("unexpected list");
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool key(std::string& text) override {
    if (depth_ == 1) {
      name_ = std::move(text);
      if (!in_metadata()) return entries_.contains(name_) ? refuse("duplicate name") : true;
      return std::exchange(seen_metadata_, true) ? refuse("duplicate name") : true;
    }
    field_ = std::move(text);
    if (in_metadata()) return metadata_.contains(field_) ? refuse("duplicate key") : true;
    bool* seen = field_ == "dtype" ? &fields_.dtype : field_ == "shape" ? &fields_.shape : field_ == "data_offsets" ? &fields_.offsets : nullptr;
    if (!seen) return refuse("unknown key");
    return std::exchange(*seen, true) ? refuse("duplicate key") : true;
  }
  bool string(std::string& text) override {
    if (depth_ != 2) return refuse("unexpected text");
    if (in_metadata()) {
      metadata_.emplace(field_, std::move(text));
      return true;
    }
    if (field_ != "dtype") return refuse("text in place of a list");
    const auto dtype = dtype_from_name(text);
    if (!dtype) return refuse("unknown dtype " + name_text(text));
    fields_.entry.dtype = *dtype;
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (depth_ != 3) return refuse("unexpected number");
    if (field_ == "shape") {
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return refuse("dimension too large");
      if (fields_.entry.shape.size() == kMaxRank) return refuse("more than 64 dimensions");
      fields_.entry.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (fields_.offset_count == 2) return refuse("more than two data_offsets");
    (fields_.offset_count++ == 0 ? fields_.entry.begin : fields_.entry.end) = value;
    return true;
  }
  bool null() override { return refuse("unexpected null"); }
  bool boolean(bool) override { return refuse("unexpected boolean"); }
  bool number_integer(number_integer_t) override { return refuse("negative number"); }
  bool number_float(number_float_t, const string_t&) override { return refuse("number that is no unsigned integer"); }
  bool binary(binary_t&) override { return refuse("binary value"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return refuse("bad JSON at byte " + std::to_string(position));
  }

 private:
  struct Fields {
    bool dtype = false, shape = false, offsets = false;
    int offset_count = 0;
    SafetensorsFile::Entry entry{};
  };

  bool in_metadata() const { return name_ == "__metadata__"; }
  bool finish_entry() {
    if (!fields_.dtype || !fields_.shape || fields_.offset_count != 2) return refuse("dtype, shape or data_offsets missing");
    entries_.emplace(name_, std::move(fields_.entry));
    return true;
  }
  bool refuse(const std::string& what) {
    if (problem_.empty()) problem_ = name_.empty() ? what : name_text(name_) + ": " + what;
    return false;
  }

  std::map<std::string, SafetensorsFile::Entry>& entries_;
  Metadata& metadata_;
  std::string name_, field_, problem_;
  Fields fields_;
  int depth_ = 0;
  bool seen_metadata_ = false;
};

/// Bytes of the entry by its shape; dimensions of 0 count as 1 first, so that strides cannot overflow either.
std::optional<uint64_t> checked_bytes(const SafetensorsFile::Entry& entry) {
  uint64_t all = c10::elementSize(entry.dtype);
  bool empty = false;
  for (const int64_t dim : entry.shape) {
    empty |= dim == 0;
    if (!multiply(all, static_cast<uint64_t>(std::max<int64_t>(dim, 1)), all)) return std::nullopt;
  }
  if (all > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
  return empty ? 0 : all;
}

/// Sizes, holes, overlaps and the file's end. Turns offsets into positions in the file.
void check_cover(std::map<std::string, SafetensorsFile::Entry>& entries, uint64_t data_begin, uint64_t file_size, const fs::path& path) {
  std::vector<std::pair<const std::string, SafetensorsFile::Entry>*> order;
  order.reserve(entries.size());
  for (auto& item : entries) order.push_back(&item);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  const uint64_t data_bytes = file_size - data_begin;
  uint64_t at = 0;
  for (auto* item : order) {
    auto& [name, entry] = *item;
    const auto bytes = checked_bytes(entry);
    if (!bytes) fail(ExitCode::data, "safetensors: {}: {}: shape {} overflows", path.string(), name_text(name), shape_text(entry.shape));
    if (entry.begin != at || entry.end < entry.begin || entry.end - entry.begin != *bytes || entry.end > data_bytes)
      fail(ExitCode::data, "safetensors: {}: {}: data_offsets [{}, {}] do not fit; expected [{}, {}] of {} data bytes (file damaged or not whole)",
           path.string(), name_text(name), entry.begin, entry.end, at, at + *bytes, data_bytes);
    at = entry.end;
    entry.begin += data_begin;
    entry.end += data_begin;
  }
  if (at != data_bytes) fail(ExitCode::data, "safetensors: {}: {} bytes after the last tensor (file damaged)", path.string(), data_bytes - at);
}

/// Header text in the official library's form: keys in file order, no blanks, padded so that the data starts at a multiple of 8.
std::string header_text(const std::vector<TensorSpec>& tensors, const Metadata& metadata) {
  const auto quoted = [](const std::string& name) { return dump_json(Json(name), -1); };
  std::string text = "{";
  if (!metadata.empty()) text += "\"__metadata__\":" + dump_json(Json(metadata), -1) + ",";
  std::set<std::string_view> names = {"__metadata__"};
  uint64_t at = 0;
  for (const TensorSpec& t : tensors) {
    FUSION_CHECK(names.insert(t.name).second, "safetensors: '{}' is the name of two tensors, or of none", t.name);
    const uint64_t end = at + t.bytes();
    text += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}},", quoted(t.name), dtype_name(t.dtype),
                        fmt::join(t.shape, ","), at, end);
    at = end;
  }
  if (text.back() == ',') text.pop_back();
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  FUSION_CHECK(text.size() <= kMaxHeaderBytes, "safetensors: the header would have {} bytes, readers take {}", text.size(), kMaxHeaderBytes);
  return text;
}

}  // namespace

std::string dtype_name(at::ScalarType dtype) { return kDtypes[dtype_rank(dtype)].name; }

uint64_t tensor_bytes(at::ScalarType dtype, const std::vector<int64_t>& shape) {
  uint64_t bytes = c10::elementSize(dtype);
  for (const int64_t dim : shape)
    FUSION_CHECK(dim >= 0 && multiply(bytes, static_cast<uint64_t>(dim), bytes), "safetensors: shape {} overflows", shape_text(shape));
  return bytes;
}

std::string name_text(std::string_view name) { return dump_json(Json(name.substr(0, 200)), -1); }

std::string shape_text(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

SafetensorsFile::SafetensorsFile(const fs::path& path) : path_(path), map_(std::make_shared<MappedFile>(path)) {
  const uint64_t size = map_->size();
  if (size < kLengthBytes)
    fail(ExitCode::data, "safetensors: {}: {} bytes are too few for a header (file damaged or not whole)", path.string(), size);
  uint64_t length = 0;
  std::memcpy(&length, map_->data(), kLengthBytes);
  const uint64_t most = std::min(kMaxHeaderBytes, size - kLengthBytes);
  if (length < 2 || length > most)
    fail(ExitCode::data, "safetensors: {}: header length {} is not within 2 and {} (file damaged or of another format)", path.string(), length, most);
  const std::string_view text = map_->text().substr(kLengthBytes, length);
  if (text.front() != '{') fail(ExitCode::data, "safetensors: {}: the header does not start with '{{' (another format?)", path.string());

  auto entries = std::make_shared<std::map<std::string, Entry>>();
  auto metadata = std::make_shared<Metadata>();
  HeaderReader reader(*entries, *metadata);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &reader))
    fail(ExitCode::data, "safetensors: {}: header: {}", path.string(), reader.problem());
  check_cover(*entries, kLengthBytes + length, size, path);
  entries_ = std::move(entries);
  metadata_ = std::move(metadata);
}

const SafetensorsFile::Entry& SafetensorsFile::entry(const std::string& name) const {
  const auto it = entries_->find(name);
  if (it == entries_->end()) fail(ExitCode::data, "safetensors: {}: no tensor {}", path_.string(), name_text(name));
  return it->second;
}

TensorSpec SafetensorsFile::spec(const std::string& name) const {
  const Entry& e = entry(name);
  return {name, e.dtype, e.shape};
}

std::span<const std::byte> SafetensorsFile::bytes(const std::string& name) const {
  const Entry& e = entry(name);
  return map_->bytes().subspan(e.begin, e.end - e.begin);
}

at::Tensor SafetensorsFile::tensor(const std::string& name) const {
  const Entry& e = entry(name);
  const auto options = at::TensorOptions().dtype(e.dtype);
  const auto data = bytes(name);
  if (e.dtype == at::kBool && std::any_of(data.begin(), data.end(), [](std::byte b) { return std::to_integer<int>(b) > 1; }))
    fail(ExitCode::data, "safetensors: {}: {}: a BOOL other than 0 and 1", path_.string(), name_text(name));
  const bool aligned = reinterpret_cast<uintptr_t>(data.data()) % c10::elementSize(e.dtype) == 0;
  if (!aligned || data.empty()) {
    at::Tensor copy = at::empty(e.shape, options);
    if (!data.empty()) std::memcpy(copy.mutable_data_ptr(), data.data(), data.size());
    return copy;
  }
  // from_blob takes a writable pointer; the pages themselves are read only.
  return at::from_blob(
      const_cast<std::byte*>(data.data()), e.shape, [map = map_](void*) {}, options);
}

SafetensorsPlan plan_safetensors(std::vector<TensorSpec> tensors, const Metadata& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorSpec& a, const TensorSpec& b) {
    const size_t rank_a = dtype_rank(a.dtype), rank_b = dtype_rank(b.dtype);
    return rank_a != rank_b ? rank_a > rank_b : a.name < b.name;
  });
  SafetensorsPlan plan;
  const std::string header = header_text(tensors, metadata);
  const uint64_t length = header.size();
  plan.head.assign(reinterpret_cast<const char*>(&length), sizeof length);
  plan.head += header;
  plan.size = plan.head.size();
  for (const TensorSpec& tensor : tensors) {
    plan.at[tensor.name] = plan.size;
    plan.size += tensor.bytes();
  }
  plan.tensors = std::move(tensors);
  return plan;
}

WrittenFile write_safetensors(const fs::path& path, std::vector<TensorSpec> tensors, const TensorSource& source, const Metadata& metadata) {
  const SafetensorsPlan plan = plan_safetensors(std::move(tensors), metadata);
  AtomicFile file(path);
  file.write(plan.head);
  for (const TensorSpec& spec : plan.tensors) {
    const at::Tensor given = source(spec);
    if (given.scalar_type() != spec.dtype || given.sizes() != at::IntArrayRef(spec.shape))
      fail(ExitCode::failure, "safetensors: {}: '{}' was announced as {} {} but given as {} {}", path.string(), spec.name, dtype_name(spec.dtype),
           shape_text(spec.shape), c10::toString(given.scalar_type()), shape_text(given.sizes().vec()));
    const at::Tensor tensor = given.to(at::kCPU).contiguous();
    if (tensor.numel() > 0) file.write(std::span(static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()));
  }
  file.commit();
  return {path.filename().string(), file.size(), file.sha256()};
}

WrittenFile write_safetensors(const fs::path& path, const std::map<std::string, at::Tensor>& tensors, const Metadata& metadata) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
  return write_safetensors(
      path, std::move(specs), [&](const TensorSpec& spec) { return tensors.at(spec.name); }, metadata);
}

}  // namespace fusion
