// Tiny tokenizers and random texts for the tests of the text room.
#pragma once

#include <gtest/gtest.h>
#include <sentencepiece_trainer.h>

#include <string>
#include <vector>

#include "fusion/base/json.h"
#include "fusion/base/random.h"
#include "fusion/text/tokenizer.h"
#include "fusion/text/unicode.h"

namespace fusion::test {

inline const std::vector<std::string> kSentences = {
    "The cat's sitting on the mat, isn't it? I'd say we've won; they'll agree, I'm sure you're right.",
    "What is in the image? Describe the picture in detail.   Two  blanks, three   blanks, many          blanks.",
    "A small red circle and a large blue square are near the left border of the picture.",
    "How many people are there? There are 12345 people, 67 dogs and 890 birds in 2024.",
    "Gr\u00FC\u00DFe aus M\u00FCnchen, caf\u00E9 cr\u00E8me, \u00BFqu\u00E9 hay en la imagen?",
    "\u4F60\u597D\uFF0C\u4E16\u754C\u3002\u8FD9\u5F20\u56FE\u7247\u91CC\u6709\u4EC0\u4E48\uFF1F",
    "\u0427\u0442\u043E \u043D\u0430 \u043A\u0430\u0440\u0442\u0438\u043D\u043A\u0435? \u041A\u043E\u0448\u043A\u0430 \u0438 "
    "\u0441\u043E\u0431\u0430\u043A\u0430.",
    "for (int i = 0; i < n; ++i) { sum += x[i] * y[i]; }  // a loop",
};

/// Feeds the sentences several times over, so that pairs occur often enough.
class Sentences : public sentencepiece::SentenceIterator {
 public:
  bool done() const override { return at_ >= 8 * kSentences.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return kSentences[at_ % kSentences.size()]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  size_t at_ = 0;
};

/// Words, runs of blanks, digits, signs, several scripts, combining marks, characters beyond the basic plane. No U+2581, no added tokens.
inline std::string random_text(RandomStream& draw, size_t characters) {
  static const std::vector<std::string> kWords = {"the",  "cat",  "'s",  "'LL", "circle", "12345", "==>>",
                                                  "\r\n", "\n\n", "   ", "\t",  "\u00A0", "...",   "I've"};
  constexpr std::pair<char32_t, char32_t> kRanges[] = {{0x20, 0x7E},       {0x20, 0x7E},      {0x09, 0x0D},     {0xA1, 0x17F},    {0x300, 0x36F},
                                                       {0x410, 0x44F},     {0x660, 0x669},    {0x905, 0x939},   {0x2000, 0x200D}, {0x2028, 0x202F},
                                                       {0x2150, 0x218B},   {0x3000, 0x3002},  {0x4E00, 0x9FA5}, {0xAC00, 0xD7A3}, {0xFF10, 0xFF5A},
                                                       {0x1D400, 0x1D454}, {0x1F600, 0x1F64F}};
  std::string text;
  while (characters-- > 0) {
    if (draw.below(3) == 0) {
      text += kWords[draw.below(kWords.size())];
    } else {
      const auto& [first, last] = kRanges[draw.below(std::size(kRanges))];
      append_utf8(text, first + static_cast<char32_t>(draw.below(last - first + 1)));
    }
    if (draw.below(3) == 0) text += ' ';
  }
  return text;
}

/// A SentencePiece model file trained on a few sentences; `arguments` are added to the trainer's ("--model_type=bpe --byte_fallback=true").
inline std::string train_sentencepiece(const std::string& arguments) {
  Sentences sentences;
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      "--minloglevel=4 --vocab_size=640 --hard_vocab_limit=false --character_coverage=0.99 --normalization_rule_name=identity "
      "--remove_extra_whitespaces=false --allow_whitespace_only_pieces=true " +
          arguments,
      &sentences, &model);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return model;
}

/// Added tokens of a tiny Phi: `<|user|>` and the like swallow the white space behind them.
inline Json phi_added_tokens(int64_t first_id) {
  const auto token = [](const char* content, bool rstrip, bool special) {
    return Json{{"content", content}, {"lstrip", false}, {"normalized", false}, {"rstrip", rstrip}, {"single_word", false}, {"special", special}};
  };
  Json decoder = {{"0", token("<unk>", false, true)}, {"1", token("<s>", false, true)}, {"2", token("</s>", true, false)}};
  decoder[std::to_string(first_id)] = token("<|endoftext|>", false, true);
  for (const char* content : {"<|assistant|>", "<|system|>", "<|end|>", "<|user|>"}) decoder[std::to_string(++first_id)] = token(content, true, true);
  return decoder;
}

/// Writes tokenizer.model and tokenizer_config.json.
inline void write_sentencepiece_folder(const std::filesystem::path& folder, const std::string& model, const Json& config) {
  write_file(folder / "tokenizer.model", model);
  write_file(folder / "tokenizer_config.json", dump_json(config));
}

/// A trained BPE model with byte fallback, loaded with Phi's rules (no bos, not legacy).
inline std::shared_ptr<const Tokenizer> tiny_phi(const std::filesystem::path& folder) {
  static const std::string model = train_sentencepiece("--model_type=bpe --byte_fallback=true");
  write_file(folder / "tokenizer.model", model);
  const int64_t pieces = load_tokenizer(folder)->size() - 2;  // without the vision tokens
  write_sentencepiece_folder(folder, model,
                             {{"add_bos_token", false},
                              {"legacy", false},
                              {"added_tokens_decoder", phi_added_tokens(pieces)},
                              {"bos_token", "<s>"},
                              {"eos_token", "<|endoftext|>"},
                              {"pad_token", "<|endoftext|>"},
                              {"unk_token", "<unk>"},
                              {"tokenizer_class", "LlamaTokenizer"}});
  return load_tokenizer(folder);
}

/// tokenizer.json of a byte-level BPE with all bytes and a few merges, in LLaMA-3's form.
inline Json tiny_bpe_json() {
  // Byte-level characters: printable Latin-1 stands for itself, the rest is U+0100 and up.
  Json vocab = Json::object();
  char32_t next = 0x100;
  std::vector<std::string> bytes;
  for (unsigned b = 0; b < 256; ++b) {
    std::string text;
    append_utf8(text, (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE ? b : next++);
    vocab[text] = b;
    bytes.push_back(text);
  }
  Json merges = Json::array();
  int64_t id = 256;
  const auto merge = [&](const std::string& left, const std::string& right) {
    merges.push_back(left + " " + right);
    vocab[left + right] = id++;
  };
  const std::string blank = bytes[' '], line = bytes['\n'];
  merge("t", "h"), merge("th", "e"), merge(blank, "the"), merge("c", "a"), merge("ca", "t"), merge(blank, "c"), merge(line, line), merge("1", "2");
  merge("12", "3"), merge("e", "e"), merge("ee", "e"), merge(bytes[0xC3], bytes[0xA9]), merge("a", "a"), merge("aa", "aa");
  vocab["catalogue"] = id++;  // no merge leads here: reached by ignore_merges only
  Json added = Json::array();
  for (const char* content :
       {"<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"})
    added.push_back(
        {{"id", id++}, {"content", content}, {"single_word", false}, {"lstrip", false}, {"rstrip", false}, {"normalized", false}, {"special", true}});
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const char* pattern = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const Json split = {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
  const Json bos = {{"SpecialToken", {{"id", "<|begin_of_text|>"}, {"type_id", 0}}}}, text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", Json::array({split, byte_level})}}},
          {"post_processor",
           {{"type", "Sequence"}, {"processors", Json::array({byte_level, {{"type", "TemplateProcessing"}, {"single", Json::array({bos, text})}}})}}},
          {"decoder", byte_level},
          {"model", {{"type", "BPE"}, {"ignore_merges", true}, {"vocab", vocab}, {"merges", merges}}}};
}

inline Json tiny_bpe_config() {
  return {{"bos_token", "<|begin_of_text|>"},
          {"eos_token", "<|eot_id|>"},
          {"clean_up_tokenization_spaces", false},
          {"tokenizer_class", "PreTrainedTokenizerFast"}};
}

inline void write_bpe_folder(const std::filesystem::path& folder, const Json& tokenizer, const Json& config) {
  write_file(folder / "tokenizer.json", dump_json(tokenizer));
  write_file(folder / "tokenizer_config.json", dump_json(config));
}

}  // namespace fusion::test
