// Random bytes for every reader of foreign files: safetensors, both tokenizers, texts, pictures, rows and shards. Each input must end in a value or
// in an Error within a second of processor time, with bounded memory; run it in the sanitizers' build (scripts/fuzz.sh).
#include "data/shard_files.h"
#include "fusion/base/error.h"
#include "fusion/base/random.h"
#include "fusion/data/annotation.h"
#include "fusion/image/image.h"
#include "fusion/model/io/safetensors.h"
#include "temp_folder.h"
#include "text/text_tools.h"

#include <ATen/ops/arange.h>

#include <sys/resource.h>
#include <time.h>

#include <functional>
#include <iostream>

namespace fusion {
namespace {

constexpr double kMostSeconds = 1.0;
constexpr uint64_t kMostMemory = uint64_t{3} << 30;  // of the whole process, the sanitizers' shadow included

struct Reader {
  std::string name;
  std::vector<std::string> good;  // files that are read without an error
  std::function<void(const std::string&)> read;
};

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

uint64_t peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

std::string noise(RandomStream& draw, uint64_t bytes) {
  std::string text(bytes, '\0');
  for (char& byte : text) byte = static_cast<char>(draw.below(256));
  return text;
}

// Pure noise; a good file with flipped bytes, a piece cut out or doubled, an end of noise; or two good files joined.
std::string input(const Reader& reader, RandomStream& draw) {
  if (reader.good.empty() || draw.below(4) == 0) return noise(draw, draw.below(4096));
  std::string bytes = reader.good[draw.below(reader.good.size())];
  for (uint64_t i = 0, damages = 1 + draw.below(8); i < damages && !bytes.empty(); ++i) {
    const uint64_t at = draw.below(bytes.size()), length = std::min<uint64_t>(draw.below(64), bytes.size() - at);
    switch (draw.below(6)) {
      case 0:
        bytes[at] = static_cast<char>(draw.below(256));
        break;
      case 1:
        bytes[at] ^= static_cast<char>(1 << draw.below(8));
        break;
      case 2:
        bytes.erase(at, length);
        break;
      case 3:
        bytes.insert(at, bytes.substr(at, length));
        break;
      case 4:
        bytes.replace(at, length, noise(draw, length));
        break;
      default:
        bytes.resize(at);
        bytes += noise(draw, draw.below(256));
    }
  }
  return bytes;
}

/// Rows in a file with this ending.
Reader rows(const fs::path& folder, const std::string& ending, std::vector<std::string> good) {
  return {"rows" + ending, std::move(good), [path = folder / ("x" + ending)](const std::string& bytes) {
            write_file(path, bytes, Sync::no);
            const AnnotationFile file(path);
            for (int64_t i = 0; i < file.size(); ++i) {
              try {
                const Sample sample = file.sample(i);
                if (sample.stored) check_picture(sample, {});
              } catch (const BadSample&) {  // the rows behind it are read all the same
              }
            }
          }};
}

std::vector<Reader> readers(const test::TempFolder& folder) {
  const auto file = [&](const std::string& name) { return folder.path() / name; };
  write_safetensors(file("seed.safetensors"), {{"a", at::arange(12).view({3, 4})}, {"b.weight", at::arange(5).to(at::kFloat)}});

  fs::create_directory(file("phi"));
  fs::create_directory(file("bpe"));
  const auto phi = test::tiny_phi(file("phi"));
  test::write_bpe_folder(file("bpe"), test::tiny_bpe_json(), test::tiny_bpe_config());
  const auto bpe = load_tokenizer(file("bpe"));
  const auto use = [](const Tokenizer& tokenizer) { tokenizer.decode(tokenizer.encode("The cat \u4F60 <s> <|eot_id|> 1")); };

  std::vector<std::string> pictures;
  for (const auto& entry : fs::directory_iterator(FUSION_SOURCE_DIR "/tests/data/image"))
    if (const auto kind = entry.path().extension(); kind != ".json" && kind != ".py") pictures.push_back(read_file(entry.path()));

  const test::LlavaFolder llava(file("llava"));
  const std::string lines = read_file(llava.folder / "data.jsonl");
  std::string array = lines;
  for (char& byte : array)
    if (byte == '\n') byte = ',';
  array = "[" + array.substr(0, array.size() - 1) + "]";
  const test::LlavaFolder::Columns whole = {{"image", "bytes"}, {"json", "str"}, {"number", "int"}},
                                   split = {{"conversations", "json"}, {"id", "str"}, {"image", "bytes"}};

  return {{"safetensors",
           {read_file(file("seed.safetensors"))},
           [=](const std::string& bytes) {
             write_file(file("x.safetensors"), bytes);
             const SafetensorsFile read(file("x.safetensors"));
             for (const auto& [name, entry] : read.entries()) read.tensor(name).sum();
           }},
          {"tokenizer.model",
           {read_file(file("phi") / "tokenizer.model")},
           [=](const std::string& bytes) {
             write_file(file("phi") / "tokenizer.model", bytes);
             use(*load_tokenizer(file("phi")));
           }},
          {"tokenizer.json",
           {dump_json(test::tiny_bpe_json())},
           [=](const std::string& bytes) {
             write_file(file("bpe") / "tokenizer.json", bytes);
             use(*load_tokenizer(file("bpe")));
           }},
          {"text", test::kSentences,
           [=](const std::string& bytes) {
             for (const auto& tokenizer : {phi, bpe}) tokenizer->decode(tokenizer->encode(bytes));
           }},
          {"picture", pictures, [](const std::string& bytes) { make_tiles(decode_image(std::as_bytes(std::span(bytes))), 32); }},
          rows(folder.path(), ".json", {array}),
          rows(folder.path(), ".jsonl", {lines}),
          rows(folder.path(), ".tar", {llava.tar(0, 6), llava.tar(3, 20)}),
          rows(folder.path(), ".mds", {llava.mds(0, 6, whole), llava.mds(3, 20, split)})};
}

int run(uint64_t bytes_each, uint64_t seed) {
  const test::TempFolder folder;
  for (const Reader& reader : readers(folder)) {
    uint64_t fed = 0, inputs = 0, refused = 0;
    double slowest = 0;
    for (; fed < bytes_each; ++inputs) {
      RandomStream draw({seed, std::hash<std::string>{}(reader.name), inputs});
      const std::string bytes = input(reader, draw);
      const double begin = processor_seconds();
      try {
        reader.read(bytes);
      } catch (const Error&) {
        ++refused;
      } catch (const std::exception& error) {
        std::cerr << fmt::format("{} input {} of seed {}: not an Error: {}\n", reader.name, inputs, seed, error.what());
        return 1;
      }
      const double seconds = processor_seconds() - begin;
      slowest = std::max(slowest, seconds);
      if (seconds > kMostSeconds || peak_bytes() > kMostMemory) {
        std::cerr << fmt::format("{} input {} of seed {}: {:.2f} s, peak memory {} MB\n", reader.name, inputs, seed, seconds, peak_bytes() >> 20);
        return 1;
      }
      fed += bytes.size() + 1;
    }
    std::cout << fmt::format("{:<16} {:>10} bytes {:>8} inputs {:>8} refused, slowest {:.3f} s, peak memory {} MB\n", reader.name, fed, inputs,
                             refused, slowest, peak_bytes() >> 20)
              << std::flush;
  }
  return 0;
}

}  // namespace
}  // namespace fusion

int main(int count, char** arguments) {
  const uint64_t bytes = count > 1 ? std::stoull(arguments[1]) : 10'000'000, seed = count > 2 ? std::stoull(arguments[2]) : 1;
  return fusion::run(bytes, seed);
}
