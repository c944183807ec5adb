#include "data_commands.h"

#include "fusion/base/log.h"
#include "fusion/base/thread_pool.h"
#include "fusion/config/override.h"
#include "fusion/data/check.h"
#include "fusion/data/ledger.h"
#include "fusion/data/show.h"
#include "fusion/data/synth.h"
#include "fusion/data/train_tokenizer.h"
#include "fusion/study/audit.h"
#include "fusion/study/data_stats.h"
#include "fusion/train/build.h"

#include <unistd.h>

namespace fusion::tools {
namespace {

/// What a stage reads its samples with.
struct StageData {
  Mixture mixture;
  ConversationEncoder encoder;
  ModelConfig model;
  SampleOptions samples;

  StageData(const Stage& stage, const Origins& origins) : StageData(stage, origins, stage_tokenizer(stage.config.model)) {}

 private:
  StageData(const Stage& stage, const Origins& origins, const std::shared_ptr<const Tokenizer>& tokenizer)
      : mixture(stage.config.data.mixture, stage.config.data.image_folder, stage.config.data.seed, stage.config.data.max_samples,
                stage.config.data.quarantine, cache_options(stage.config.data)),
        encoder(tokenizer, stage.config.model.chat_template),
        model(stage_model(stage.config, origins, *tokenizer)),
        samples(stage_samples(stage.config.data, model)) {}
};

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
  command->add_option("files", arguments->files, "LLaVA .json or .jsonl files, or shards")->required();
  command->add_option("--out", arguments->out, "Folder to write")->required();
  command->add_option("--vocabulary", arguments->vocabulary, "Most pieces")->capture_default_str();
  command->callback([arguments] { train_tokenizer({arguments->files.begin(), arguments->files.end()}, arguments->vocabulary, arguments->out); });
}

void add_check(CLI::App& data, ExitCode& code) {
  struct Arguments {
    std::vector<std::string> words;
    std::string quarantine;
    bool no_pictures = false;
    int threads = available_cores();
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      data.add_subcommand("check", "Look at every row and picture of a config's mixtures; exit 3 when more than the budget would be rejected.");
  command->add_option("config", arguments->words, "CONFIG.yaml [MORE.yaml ...] [key=value ...]; values that are ??? may stay open")->required();
  command->add_option("--quarantine", arguments->quarantine, "Write the rows that would be rejected, for data.quarantine; one stage only");
  command->add_flag("--no-pictures", arguments->no_pictures, "Only look whether the pictures' files are there");
  command->add_option("--threads", arguments->threads, "Rows at a time")->check(CLI::PositiveNumber)->capture_default_str();
  command->callback([arguments, &code] {
    const Recipe recipe = load_words(arguments->words);
    FUSION_CHECK(arguments->quarantine.empty() || recipe.stages.size() == 1, "data: --quarantine takes a config of one stage, this one has {}",
                 recipe.stages.size());
    for (size_t i = 0; i < recipe.stages.size(); ++i) {
      const Stage& stage = recipe.stages[i];
      FUSION_CHECK(!stage.config.data.mixture.empty(), "data: data.mixture is empty; name a mixture YAML, a LLaVA .json or .jsonl file, or shards");
      if (recipe.stages.size() > 1) fmt::print("{}\n", stage.name);
      const StageData read(stage, recipe.origins[i]);
      const CheckOptions options{read.samples, !arguments->no_pictures, arguments->threads};
      const DataCheck check = check_data(read.mixture, read.encoder, options);
      fmt::print("{}", check_table(read.mixture, check));
      for (size_t bad = 0; bad < std::min<size_t>(check.bad.size(), 10); ++bad)
        fmt::print("{} (id {}): {}\n", check.bad[bad].where, check.bad[bad].id, check.bad[bad].reason);
      if (check.bad.size() > 10)
        fmt::print("and {} more{}\n", check.bad.size() - 10, arguments->quarantine.empty() ? "; --quarantine FILE lists all" : "");
      if (!arguments->quarantine.empty()) write_quarantine(arguments->quarantine, read.mixture, check);
      if (static_cast<int64_t>(check.bad.size()) > bad_sample_budget(read.mixture.size(), stage.config.data.bad_sample_budget)) code = ExitCode::data;
    }
  });
}

void add_stats(CLI::App& data) {
  struct Arguments {
    std::vector<std::string> words;
    std::string png;
    int64_t samples = 10'000;
    int threads = available_cores();
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = data.add_subcommand(
      "stats", "Histograms of lengths, questions and picture sizes of a config's mixtures; what padding costs, how full packs are.");
  command->add_option("config", arguments->words, "CONFIG.yaml [MORE.yaml ...] [key=value ...]; values that are ??? may stay open")->required();
  command->add_option("--samples", arguments->samples, "Samples drawn at random; 0 = all")->check(CLI::NonNegativeNumber)->capture_default_str();
  command->add_option("--png", arguments->png, "Draw the histograms into this file; one stage only");
  command->add_option("--threads", arguments->threads, "Rows at a time")->check(CLI::PositiveNumber)->capture_default_str();
  command->callback([arguments] {
    const Recipe recipe = load_words(arguments->words);
    FUSION_CHECK(arguments->png.empty() || recipe.stages.size() == 1, "data: --png takes a config of one stage, this one has {}",
                 recipe.stages.size());
    for (size_t i = 0; i < recipe.stages.size(); ++i) {
      const Stage& stage = recipe.stages[i];
      FUSION_CHECK(!stage.config.data.mixture.empty(), "data: data.mixture is empty; name a mixture YAML or a LLaVA .json or .jsonl file");
      if (recipe.stages.size() > 1) fmt::print("{}\n", stage.name);
      const StageData read(stage, recipe.origins[i]);
      const DataStats stats = data_stats(read.mixture, read.encoder, read.samples, stage.config, read.model, arguments->samples, arguments->threads);
      fmt::print("{}{}", read.mixture.table(), stats_text(stats));
      if (!arguments->png.empty()) write_file(arguments->png, encode_png(stats_picture(stats)));
    }
  });
}

void add_show(CLI::App& data) {
  struct Arguments {
    std::string file, tokenizer, tiles, image_folder, chat_template = enum_name(Template::phi_3);
    int64_t index = 0;
    SampleOptions samples;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = data.add_subcommand("show", "Print a row as the model reads it: supervised text in green, question ends marked.");
  command->add_option("file", arguments->file, "LLaVA .json or .jsonl file, shards, or a mixture YAML")->required();
  command->add_option("index", arguments->index, "Row, counted from 0")->required()->check(CLI::NonNegativeNumber);
  command->add_option("--tokenizer", arguments->tokenizer, "Folder of the tokenizer")->required()->check(CLI::ExistingDirectory);
  command->add_option("--template", arguments->chat_template, "Chat template")
      ->check(CLI::IsMember(enum_names(static_cast<const Template*>(nullptr))))
      ->capture_default_str();
  command->add_option("--image-folder", arguments->image_folder, "Root of relative picture paths; default: the file's folder");
  command->add_option("--tiles", arguments->tiles, "Write the five tiles into this PNG");
  command->add_option("--side", arguments->samples.image_size, "Side of a tile in pixels")->check(CLI::PositiveNumber)->capture_default_str();
  command->callback([arguments] {
    const Mixture mixture(arguments->file, arguments->image_folder, 0);
    FUSION_CHECK(arguments->index < mixture.size(), "data: {} has {} rows, counted from 0; {} is none of them", arguments->file, mixture.size(),
                 arguments->index);
    const ConversationEncoder encoder(load_tokenizer(arguments->tokenizer), *enum_value<Template>(arguments->chat_template));
    const Sample sample = mixture.sample(arguments->index);
    const EncodedConversation text = encode_sample(sample, encoder, arguments->samples).text;
    fmt::print("{} (id {}){}\n{}\n{} tokens, {} supervised, {} questions\ninstruct: {}\n", sample.where, sample.id,
               sample.image.empty() ? "" : ", " + sample.image,
               show_conversation(text, encoder.tokenizer(), ::isatty(STDOUT_FILENO) && !std::getenv("NO_COLOR")), text.input_ids.size(),
               text.supervised, text.turn_ends.size(), log::printable(encoder.tokenizer().decode(text.instruct)));
    if (arguments->tiles.empty()) return;
    FUSION_CHECK(!sample.image.empty(), "data: row {} has no picture for --tiles", arguments->index);
    write_file(arguments->tiles, encode_png(show_tiles(load_tiles(sample, arguments->samples), arguments->samples.image_size)));
  });
}

void add_audit(CLI::App& data, ExitCode& code) {
  auto run = std::make_shared<std::string>();
  CLI::App* command = data.add_subcommand("audit", "Prove from a run folder that every sample was trained once or is in the ledger; exit 1 if not.");
  command->add_option("run", *run, "Folder of the run")->required()->check(CLI::ExistingDirectory);
  command->callback([run, &code] {
    const auto stages = audit_run(*run);
    fmt::print("{}", audit_text(stages));
    for (const StageAudit& stage : stages)
      if (!stage.faults.empty()) code = ExitCode::failure;
  });
}

}  // namespace

Recipe load_words(const std::vector<std::string>& words) {
  std::vector<std::string> files, overrides;
  for (const std::string& word : words) (is_override(word) ? overrides : files).push_back(word);
  return load_recipe(files, overrides, Missing::keep);
}

void add_data(CLI::App& app, ExitCode& code) {
  CLI::App* data = app.add_subcommand("data", "Check, audit, pack, convert and make data sets, make tokenizers.");
  data->require_subcommand(1);
  add_synth(*data);
  add_tokenizer(*data);
  add_check(*data, code);
  add_stats(*data);
  add_show(*data);
  add_audit(*data, code);
  add_pack(*data);
  add_convert_rows(*data, code);
}

}  // namespace fusion::tools
