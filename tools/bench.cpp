#include "tools.h"

#include "fusion/study/bench.h"
#include "fusion/study/bench_images.h"
#include "fusion/study/bench_index.h"
#include "fusion/study/bench_loader.h"
#include "fusion/study/bench_text.h"

namespace fusion::tools {

void add_bench(CLI::App& app, ExitCode& code) {
  struct Arguments {
    BenchOptions step;
    ImageBenchOptions pictures;
    TextBenchOptions text;
    LoaderBenchOptions loader;
    std::string folder, tokenizer;
    std::vector<std::string> files;
    bool json = false, open_only = false;
  };
  auto arguments = std::make_shared<Arguments>();
  static const std::map<std::string, Recompute> kRecompute = {{"none", Recompute::none}, {"norms", Recompute::norms}, {"full", Recompute::full}};
  CLI::App* command = app.add_subcommand("bench", "Seconds and memory of a training step on a reference case; speed of pictures or of a tokenizer.");
  command->require_subcommand(0, 1);
  BenchOptions& step = arguments->step;
  command->add_option("--case", arguments->folder, "Folder of a case of kind bench")->check(CLI::ExistingDirectory);
  command->add_option("--threads", step.threads, "Threads inside one operator")->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("--steps", step.steps, "Timed steps, after one warm-up step")->check(CLI::PositiveNumber)->capture_default_str();
  command
      ->add_option("--recompute", step.recompute, "Keep activations (none), recompute those of norms and activation functions (norms), or all (full)")
      ->transform(CLI::CheckedTransformer(kRecompute));
  static const std::map<std::string, Device> kDevices = {{"cpu", Device::cpu}, {"cuda", Device::cuda}};
  static const std::map<std::string, at::ScalarType> kDtypes = {{"fp32", at::kFloat}, {"bf16", at::kBFloat16}};
  command->add_option("--dtype", step.dtype, "Compute dtype, fp32 or bf16")->transform(CLI::CheckedTransformer(kDtypes));
  command->add_option("--device", step.device, "cpu or cuda")->transform(CLI::CheckedTransformer(kDevices));
  command->add_flag("--json", arguments->json, "Print JSON");

  CLI::App* images = command->add_subcommand("images", "From a file's bytes to normalised tiles, one thread: decode, tiles, normalise.");
  images->add_option("files", arguments->files, "Pictures; scripts/bench_images.py makes them and times the Python side")
      ->required()
      ->check(CLI::ExistingFile);
  images->add_option("--side", arguments->pictures.side, "Side of a tile in pixels")->check(CLI::PositiveNumber)->capture_default_str();
  images->add_option("--repeats", arguments->pictures.repeats, "Timed passes, after one warm-up pass")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();

  CLI::App* text = command->add_subcommand("text", "Encoding and decoding of texts and of long runs of one character, one thread.");
  text->add_option("files", arguments->files, "UTF-8 texts, each encoded as a whole")->check(CLI::ExistingFile);
  text->add_option("--tokenizer", arguments->tokenizer, "Folder of the tokenizer")->required()->check(CLI::ExistingDirectory);
  text->add_option("--repeats", arguments->text.repeats, "Timed passes, after one warm-up pass")->check(CLI::PositiveNumber)->capture_default_str();
  text->add_option("--run-bytes", arguments->text.run_bytes, "Bytes of the runs of one character; 0 = no runs")->capture_default_str();

  CLI::App* index =
      command->add_subcommand("index", "Making and opening the index of a .json or .jsonl file; scripts/bench_index.sh makes a large one.");
  index->add_option("file", arguments->folder, "The file")->required()->check(CLI::ExistingFile);
  index->add_flag("--open-only", arguments->open_only, "Only open the kept index");

  CLI::App* loader = command->add_subcommand("loader", "Samples per second from files to micro-batches, against decoding and resizing alone.");
  loader->add_option("file", arguments->folder, "LLaVA .json or .jsonl file, or a mixture YAML")->required()->check(CLI::ExistingFile);
  loader->add_option("--tokenizer", arguments->tokenizer, "Folder of the tokenizer")->required()->check(CLI::ExistingDirectory);
  loader->add_option("--samples", arguments->loader.samples, "First samples that are used")->check(CLI::PositiveNumber)->capture_default_str();
  loader->add_option("--workers", arguments->loader.workers, "Threads of the last figure")->check(CLI::PositiveNumber)->capture_default_str();
  loader->add_option("--side", arguments->loader.sample.image_size, "Side of a tile in pixels")->check(CLI::PositiveNumber)->capture_default_str();

  command->callback([arguments, command, images, text, index, loader, &code] {
    const CLI::App* inner = nullptr;
    for (const CLI::App* each : {images, text, index, loader})
      if (each->parsed()) inner = each;
    if (inner) {
      for (const char* option : {"--case", "--threads", "--steps", "--recompute", "--dtype", "--device", "--json"})
        FUSION_CHECK(command->count(option) == 0, "bench: {} has no effect on `bench {}`; remove it", option, inner->get_name());
    }
    if (inner == index) {
      fmt::print("{}", index_bench_text(bench_index(arguments->folder, arguments->open_only)));
    } else if (inner == loader) {
      const auto encoder = std::make_shared<ConversationEncoder>(load_tokenizer(arguments->tokenizer), Template::phi_3);
      fmt::print("{}", loader_bench_text(bench_loader(std::make_shared<Mixture>(arguments->folder, "", 0), encoder, arguments->loader)));
    } else if (inner == text) {
      arguments->text.tokenizer = arguments->tokenizer;
      fmt::print("{}", text_bench_table(bench_text({arguments->files.begin(), arguments->files.end()}, arguments->text)));
    } else if (inner == images) {
      fmt::print("{}", image_bench_table(bench_images({arguments->files.begin(), arguments->files.end()}, arguments->pictures)));
    } else {
      FUSION_CHECK(!arguments->folder.empty(),
                   "bench: give --case FOLDER, `fusion bench images FILES` or `fusion bench text --tokenizer FOLDER FILES`");
      arguments->step.folder = arguments->folder;
      const BenchResult result = run_bench(arguments->step);
      fmt::print("{}", arguments->json ? dump_json(bench_json(arguments->step, result)) : bench_table(arguments->step, result));
    }
    code = ExitCode::done;
  });
}

}  // namespace fusion::tools
