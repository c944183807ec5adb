#include "fusion/data/train_tokenizer.h"

#include "fusion/base/json.h"
#include "fusion/data/annotation.h"
#include "fusion/text/unicode.h"  // strip, replace_all

#include <sentencepiece_trainer.h>

#include <unordered_map>

namespace fusion {
namespace {

/// The phi_3 template's fixed text: it stands in every prompt, so it shall be short in tokens too (data.md 4).
constexpr std::string_view kSystemText = "You are a helpful AI assistant.";

class Lines : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const std::vector<std::string>& lines) : lines_(lines) {}
  bool done() const override { return at_ >= lines_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return lines_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& lines_;
  size_t at_ = 0;
};

/// Each line of a text as it follows a special token, and as it begins an instruct text, with a blank before it.
void add_lines(std::string_view text, std::vector<std::string>& lines) {
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    if (const std::string_view line = strip(text.substr(at, end - at)); !line.empty()) {
      lines.emplace_back(line);
      lines.push_back(" " + std::string(line));
    }
    at = end + 1;
  }
}

std::vector<std::string> training_lines(const std::vector<fs::path>& files) {
  std::vector<std::string> lines;
  add_lines(kSystemText, lines);
  for (const fs::path& path : files) {
    const AnnotationFile file(path);
    for (int64_t i = 0; i < file.size(); ++i) {
      try {
        for (const Turn& turn : file.sample(i).turns) add_lines(replace_all(turn.value, "<image>", ""), lines);
      } catch (const BadSample&) {  // the run that trains on the file will account for it
      }
    }
  }
  return lines;
}

std::string train_model(const std::vector<std::string>& lines, int64_t vocab_size) {
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(vocab_size)},
      {"hard_vocab_limit", "false"},
      {"byte_fallback", "true"},
      {"character_coverage", "1.0"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "false"},  // the lines hold both forms; see below
      {"split_digits", "true"},
      {"allow_whitespace_only_pieces", "true"},
      {"max_sentence_length", "1000000"},
      {"num_threads", "1"},
      {"minloglevel", "3"},
  };
  std::string model;
  Lines iterator(lines);
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &iterator, &model);
  if (!status.ok())
    fail(ExitCode::usage, "data: training a tokenizer of at most {} pieces failed: {}. More pieces may help", vocab_size, status.ToString());
  // A second normalizer_spec{add_dummy_prefix: true}, which protobuf merges into the first: the flag that Llama's files carry.
  return model + std::string("\x1A\x02\x18\x01", 4);
}

Json token_entry(std::string_view content, bool rstrip, bool special) {
  return {{"content", content}, {"lstrip", false}, {"normalized", false}, {"rstrip", rstrip}, {"single_word", false}, {"special", special}};
}

}  // namespace

void train_tokenizer(const std::vector<fs::path>& files, int64_t vocab_size, const fs::path& folder) {
  const std::string model = train_model(training_lines(files), vocab_size);
  sentencepiece::SentencePieceProcessor processor;
  if (const auto status = processor.LoadFromSerializedProto(model); !status.ok())
    fail(ExitCode::failure, "data: the trained tokenizer cannot be read: {}", status.ToString());

  // The flags of Phi-3 (formats.md 3.1), without its placeholders.
  Json decoder = {{"0", token_entry("<unk>", false, true)}, {"1", token_entry("<s>", false, true)}, {"2", token_entry("</s>", true, false)}};
  Json added = Json::object();
  int64_t next = processor.GetPieceSize();
  for (const char* token : {"<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"}) {
    decoder[std::to_string(next)] = token_entry(token, token != std::string_view("<|endoftext|>"), true);
    added[token] = next++;
  }
  const Json config = {{"add_bos_token", false},
                       {"add_eos_token", false},
                       {"added_tokens_decoder", decoder},
                       {"bos_token", "<s>"},
                       {"clean_up_tokenization_spaces", false},
                       {"eos_token", "<|endoftext|>"},
                       {"legacy", false},
                       {"model_max_length", 4096},
                       {"pad_token", "<|endoftext|>"},
                       {"padding_side", "left"},
                       {"sp_model_kwargs", Json::object()},
                       {"tokenizer_class", "LlamaTokenizer"},
                       {"unk_token", "<unk>"},
                       {"use_default_system_prompt", false}};
  const Json special = {{"bos_token", "<s>"}, {"eos_token", "<|endoftext|>"}, {"pad_token", "<|endoftext|>"}, {"unk_token", "<unk>"}};
  make_directories(folder);
  write_file(folder / "tokenizer.model", model);
  write_file(folder / "added_tokens.json", dump_json(added));
  write_file(folder / "special_tokens_map.json", dump_json(special));
  write_file(folder / "tokenizer_config.json", dump_json(config));
}

}  // namespace fusion
