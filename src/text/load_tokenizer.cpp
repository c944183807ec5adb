#include "fusion/base/error.h"
#include "fusion/text/tokenizer_settings.h"
#include "fusion/text/unicode.h"
#include "loaders.h"

namespace fusion {

std::shared_ptr<const Tokenizer> load_tokenizer(const fs::path& folder) {
  if (!fs::is_directory(folder)) fail(ExitCode::usage, "tokenizer: {}: no such folder", folder.string());
  const bool has_model = fs::exists(folder / "tokenizer.model"), has_json = fs::exists(folder / "tokenizer.json");
  const std::string where = (folder / "tokenizer_config.json").string();
  std::string type =
      json_get_or<std::string>(read_tokenizer_config(folder), "tokenizer_class", has_json && !has_model ? "" : "LlamaTokenizer", where);
  // The official loader takes the slow class of LlamaTokenizer(Fast) folders; a LLaMA-3 folder's tokenizer.model is a rank list, not SentencePiece.
  const bool slow = type == "LlamaTokenizer" || type == "LlamaTokenizerFast";
  if (slow && has_model) return load_sentencepiece_tokenizer(folder);
  if (slow)
    fail(ExitCode::usage, "tokenizer: {}: tokenizer_class is {}, which needs tokenizer.model; copy it from the base model's folder", folder.string(),
         type);
  if (has_json) return load_byte_bpe_tokenizer(folder);
  fail(ExitCode::usage, "tokenizer: {}: no tokenizer.json{}", folder.string(),
       has_model ? " (tokenizer_class is " + type + "; a SentencePiece folder has LlamaTokenizer)" : " and no tokenizer.model");
}

std::string clean_up_spaces(std::string text) {
  constexpr std::pair<std::string_view, std::string_view> kRules[] = {{" .", "."},     {" ?", "?"},     {" !", "!"},   {" ,", ","},
                                                                      {" ' ", "'"},    {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"},
                                                                      {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : kRules)
    if (text.find(from) != std::string::npos) text = replace_all(text, from, to);
  return text;
}

}  // namespace fusion
