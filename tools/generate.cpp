#include "fusion/base/log.h"
#include "fusion/base/progress.h"
#include "model_arguments.h"
#include "tools.h"

#include <cstdio>

namespace fusion::tools {
namespace {

struct GenerateArguments {
  ModelArguments model;
  SamplingArguments sampling;
  std::vector<std::string> questions;
  std::string image, data, image_folder, out;
  int64_t batch = 16;
};

void print_piece(std::string_view piece) {
  std::fwrite(piece.data(), 1, piece.size(), stdout);
  std::fflush(stdout);
}

void answer_questions(const GenerateArguments& arguments, const LoadedModel& model, const GenerateOptions& options) {
  Conversation conversation(model);
  if (!arguments.image.empty()) conversation.show(arguments.image);
  for (const std::string& question : arguments.questions) {
    const Answer answer = conversation.ask(question, options, print_piece);
    print_piece("\n");
    if (!answer.complete) log::warn("generate: the answer is cut at {} tokens (--max-new-tokens)", options.max_new_tokens);
  }
}

void answer_file(const GenerateArguments& arguments, const LoadedModel& model, const GenerateOptions& options) {
  const Mixture data(arguments.data, arguments.image_folder, 0);
  const fs::path out(arguments.out);
  if (out.has_parent_path()) make_directories(out.parent_path());
  LineWriter lines(out, 0);
  PredictionSummary summary;
  {
    Progress progress("generate", "samples", data.size());
    summary = predict(model, data, options, arguments.batch, [&](const Prediction& prediction) {
      lines.append(dump_json({{"id", prediction.id},
                              {"question", prediction.question},
                              {"answer", prediction.answer},
                              {"expected", prediction.expected},
                              {"complete", prediction.complete}},
                             -1));
      progress.update(prediction.position);
    });
  }
  lines.sync();
  for (const Rejection& rejection : summary.rejected)
    log::warn("generate: {}: sample '{}' left out: {}", rejection.where, rejection.id, rejection.reason);
  log::info("generate: {} answers in {}, {} equal to the expected one, {} samples left out", summary.answers, out.string(), summary.exact,
            summary.rejected.size());
}

void generate(const GenerateArguments& arguments) {
  FUSION_CHECK(arguments.questions.empty() != arguments.data.empty(), "generate: give either questions or --data FILE");
  const LoadedModel model = arguments.model.load();
  GenerateOptions options = arguments.sampling.options;
  options.query_len = arguments.model.query_len;
  if (arguments.data.empty())
    answer_questions(arguments, model, options);
  else
    answer_file(arguments, model, options);
}

}  // namespace

void add_generate(CLI::App& app, ExitCode&) {
  auto arguments = std::make_shared<GenerateArguments>();
  CLI::App* command = app.add_subcommand("generate", "Answer questions about a picture, or all questions of a LLaVA file.");
  command->add_option("questions", arguments->questions, "Questions of one conversation, in order");
  CLI::Option* image =
      command->add_option("--image", arguments->image, "Picture; without it the questions are about text alone")->check(CLI::ExistingFile);
  CLI::Option* data = command->add_option("--data", arguments->data, "LLaVA .json or .jsonl file, shards, or a mixture YAML");
  CLI::Option* out = command->add_option("--out", arguments->out, "File for one JSON line per question: id, question, answer, expected, complete");
  data->excludes(image)->needs(out);
  out->needs(data);
  command->add_option("--image-folder", arguments->image_folder, "Root of relative picture paths; default: the folder of --data")
      ->needs(data)
      ->check(CLI::ExistingDirectory);
  command->add_option("--batch", arguments->batch, "Questions answered at once")->needs(data)->check(CLI::PositiveNumber)->capture_default_str();
  arguments->model.add_to(*command);
  arguments->sampling.add_to(*command);
  command->callback([arguments] { generate(*arguments); });
}

}  // namespace fusion::tools
