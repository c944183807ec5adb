#include "fusion/study/viz.h"

#include "fusion/base/log.h"
#include "model_arguments.h"
#include "tools.h"

namespace fusion::tools {
namespace {

constexpr int64_t kAnswerTokens = 64;  // the maps are about the question; the answer stands beside them

struct VizArguments {
  ModelArguments model;
  std::string image, question, out = "viz", data, image_folder;
  std::vector<std::string> words;
  int64_t samples = 0;
  bool json = false;
};

void show(const VizArguments& arguments, const LoadedModel& model, int64_t query_len) {
  const ModelConfig& config = model.config.model;
  const MappedFile file(arguments.image);
  const SampleOptions options = inference_samples(config, model.config.max_length, query_len);
  const Viz viz = look(model, arguments.question, load_tiles(arguments.image, options), query_len);
  Conversation conversation(model);
  conversation.show(arguments.image);
  GenerateOptions generate;
  generate.query_len = arguments.model.query_len;
  generate.max_new_tokens = kAnswerTokens;
  const Answer answer = conversation.ask(viz.question, generate);
  write_viz(arguments.out, viz, decode_image(file.bytes()), arguments.words,
            {{"model", model.folder.string()}, {"image", arguments.image}, {"answer", answer.text}});
  if (!config.tune.enabled) log::info("viz: the tower of this model sees no text (tune.enabled=false): no maps of the pixel level");
  fmt::print("{}\n", answer.text);
  for (const VizMaps& maps : viz.kinds) fmt::print("{}/{:<24} {}\n", arguments.out, maps.kind, maps.title);
}

void measure(const VizArguments& arguments, const LoadedModel& model, int64_t query_len) {
  const auto rows = measure_quarters(model, Mixture(arguments.data, arguments.image_folder, 0), query_len, arguments.samples);
  if (!arguments.json)
    fmt::print("{} questions name a quarter; an even map has 25 % there\n{:<24} {:<9} {:<6} {:>16} {:>10} {:>16}\n", rows[0].count, "heat map", "of",
               "layers", "asked quarter", "not asked", "difference");
  Json all = Json::array();
  for (const QuarterShare& row : rows) {
    all.push_back({{"kind", row.kind},
                   {"subject", row.subject},
                   {"layers", row.layers},
                   {"count", row.count},
                   {"share", row.share},
                   {"share_error", row.share_error},
                   {"control", row.control},
                   {"gain_error", row.gain_error}});
    if (!arguments.json)
      fmt::print("{:<24} {:<9} {:<6} {:>7.1f} +- {:.1f} % {:>8.1f} % {:>7.1f} +- {:.1f} %\n", row.kind, row.subject, row.layers, 100 * row.share,
                 100 * row.share_error, 100 * row.control, 100 * (row.share - row.control), 100 * row.gain_error);
  }
  if (arguments.json) fmt::print("{}", dump_json(all));
}

void viz(const VizArguments& arguments) {
  FUSION_CHECK(arguments.image.empty() != arguments.data.empty(), "viz: give either --image FILE --question TEXT or --data FILE");
  const LoadedModel model = arguments.model.load();
  const int64_t query_len = inference_query_len(model.config.model.card, arguments.model.query_len);
  if (arguments.data.empty())
    show(arguments, model, query_len);
  else
    measure(arguments, model, query_len);
}

}  // namespace

void add_viz(CLI::App& app, ExitCode&) {
  auto arguments = std::make_shared<VizArguments>();
  CLI::App* command =
      app.add_subcommand("viz", "Heat maps of what a model looks at, word by word and layer by layer, or a measure of them over a file.");
  CLI::Option* image = command->add_option("--image", arguments->image, "Picture")->check(CLI::ExistingFile);
  CLI::Option* question = command->add_option("--question", arguments->question, "Question about it");
  image->needs(question);
  question->needs(image);
  command
      ->add_option("--word", arguments->words,
                   "Word of the question, or several in a row, to draw alone; may be given more than once; default: the mean of all words")
      ->needs(image)
      ->allow_extra_args(false);
  command->add_option("--out", arguments->out, "Folder for the pictures and values.json")->needs(image)->capture_default_str();
  CLI::Option* data = command
                          ->add_option("--data", arguments->data,
                                       "LLaVA file: how much of the heat lies on the quarter that a question names, against chance and the same "
                                       "picture asked about the other quarters")
                          ->excludes(image)
                          ->check(CLI::ExistingFile);
  command->add_option("--image-folder", arguments->image_folder, "Root of relative picture paths; default: the folder of --data")
      ->needs(data)
      ->check(CLI::ExistingDirectory);
  command->add_option("--samples", arguments->samples, "First samples that are used; 0 = all")
      ->needs(data)
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "Print the measure as one JSON list")->needs(data);
  arguments->model.add_to(*command);
  command->callback([arguments] { viz(*arguments); });
}

}  // namespace fusion::tools
