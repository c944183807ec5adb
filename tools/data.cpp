#include "tools.h"

#include "fusion/data/synth.h"
#include "fusion/data/train_tokenizer.h"

namespace fusion::tools {
namespace {

void add_synth(CLI::App& data) {
  struct Arguments {
    SynthOptions options;
    std::string out;
  };
  auto arguments = std::make_shared<Arguments>();
  SynthOptions& options = arguments->options;
  CLI::App* command = data.add_subcommand("synth", "Draw pictures of shapes and words with captions and questions, and train a tokenizer on them.");
  command->add_option("--out", arguments->out, "Folder to write")->required();
  command->add_option("--seed", options.seed, "Same seed, same bytes")->capture_default_str();
  command->add_option("--stage1", options.stage1, "Rows with captions")->capture_default_str();
  command->add_option("--stage15", options.stage15, "Rows with one question")->capture_default_str();
  command->add_option("--stage2", options.stage2, "Rows with one to four questions")->capture_default_str();
  command->add_option("--held-out", options.held_out, "Rows of val.json")->capture_default_str();
  command->add_option("--side", options.side, "Side of a picture in pixels")->capture_default_str();
  command->add_option("--vocabulary", options.vocabulary, "Most pieces of the tokenizer")->capture_default_str();
  command->callback([arguments] { write_synth(arguments->out, arguments->options); });
}

void add_tokenizer(CLI::App& data) {
  struct Arguments {
    std::vector<std::string> files;
    std::string out;
    int64_t vocabulary = 2000;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = data.add_subcommand("tokenizer", "Train a SentencePiece tokenizer of the Phi kind on the texts of LLaVA files.");
  command->add_option("files", arguments->files, "LLaVA .json or .jsonl files")->required();
  command->add_option("--out", arguments->out, "Folder to write")->required();
  command->add_option("--vocabulary", arguments->vocabulary, "Most pieces")->capture_default_str();
  command->callback([arguments] { train_tokenizer({arguments->files.begin(), arguments->files.end()}, arguments->vocabulary, arguments->out); });
}

}  // namespace

void add_data(CLI::App& app, ExitCode&) {
  CLI::App* data = app.add_subcommand("data", "Make data sets and tokenizers.");
  data->require_subcommand(1);
  add_synth(*data);
  add_tokenizer(*data);
}

}  // namespace fusion::tools
