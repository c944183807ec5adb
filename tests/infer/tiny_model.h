// A random model in a folder of its own: two pictures, a small LLaVA file, a tokenizer trained on it, weights by seed.
#pragma once

#include "fusion/data/train_tokenizer.h"
#include "fusion/image/image.h"
#include "fusion/infer/generate.h"
#include "temp_folder.h"

#include <ATen/Parallel.h>

namespace fusion::test {

inline ModelConfig tiny_config() {
  ModelConfig config;
  config.decoder.hidden_size = 48;
  config.decoder.intermediate_size = 64;
  config.decoder.num_hidden_layers = 4;
  config.decoder.num_attention_heads = config.decoder.num_key_value_heads = 4;
  config.decoder.max_position_embeddings = config.decoder.original_max_position_embeddings = 1024;
  config.decoder.initializer_range = 0.3;  // large, so that answers differ from token to token and from picture to picture
  config.tower = {.name = "siglip2-test",
                  .hidden_size = 32,
                  .intermediate_size = 48,
                  .num_hidden_layers = 5,
                  .num_attention_heads = 4,
                  .image_size = 16,
                  .patch_size = 4};
  config.card.query_lens = {4};
  config.card.heads = 4;
  config.card.stride = 2;
  config.card.layers = 2;
  return config;
}

class TinyModel {
 public:
  TinyModel() {
    at::set_num_threads(1);  // the tensors are so small that threads only wait for each other
    put("red.png", encode_png({2, 2, {255, 0, 0, 255, 9, 0, 250, 0, 0, 255, 0, 7}}));
    put("blue.png", encode_png({2, 2, {0, 0, 255, 0, 9, 250, 0, 0, 90, 80, 0, 255}}));
    put("data.json", R"([
      {"id": "a", "image": "red.png", "conversations": [
        {"from": "human", "value": "<image>\nWhat color is it?"}, {"from": "gpt", "value": "red"},
        {"from": "human", "value": "Is it round?"}, {"from": "gpt", "value": "no it is not"}]},
      {"id": "b", "image": "missing.png", "conversations": [{"from": "human", "value": "<image>\nWhat color is it?"}, {"from": "gpt", "value": "green"}]},
      {"id": "c", "image": "blue.png", "conversations": [{"from": "human", "value": "<image>\nWhat color is it?"}, {"from": "gpt", "value": "blue"}]},
      {"id": "d", "conversations": [{"from": "human", "value": "How many sides has a square?"}, {"from": "gpt", "value": "four"}]},
      {"id": "e", "image": "red.png", "conversations": [{"from": "human", "value": "<image>\nWhat color is it?"}, {"from": "gpt", "value": "red"}]}])");
    train_tokenizer({path("data.json")}, 400, path("tokenizer"));
    const auto tokenizer = load_tokenizer(path("tokenizer"));
    ModelConfig config = tiny_config();
    config.decoder.vocab_size = tokenizer->size();
    FusionModel model(config, {});
    model.parameters().initialize(7);
    FolderContent content;
    content.config.model = config;
    content.config.chat_template = Template::phi_3;
    content.config.max_length = 512;
    content.config.torch_dtype = at::kFloat;
    content.tensors = specs_of(parameter_table(config), at::kFloat);
    content.source = [&](const TensorSpec& spec) { return model.parameters().find(spec.name)->master.detach(); };
    content.more_files = [&](const fs::path& folder) { tokenizer->save(folder); };
    write_folder(path("model"), content);
  }

  fs::path path(const std::string& name) const { return folder_ / name; }
  void put(const std::string& name, std::string_view text) const { write_file(path(name), text); }

 private:
  TempFolder folder_;
};

/// Made once per test program.
inline const TinyModel& tiny() {
  static const TinyModel model;
  return model;
}

}  // namespace fusion::test
