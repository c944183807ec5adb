// From the config of a stage to its parts.
#pragma once

#include "fusion/data/loader.h"
#include "fusion/model/fusion_model.h"
#include "fusion/model/io/folder.h"

namespace fusion {

/// The tokenizer of model.tokenizer, else of model.path. Throws a usage error when neither is given.
std::shared_ptr<const Tokenizer> stage_tokenizer(const StartConfig& start);

/// The model of a stage: with model.path decoder and tower are the folder's, and keys that say otherwise in the config are an error;
/// vocab_size 0 becomes the tokenizer's size. `origins` tells given keys from defaults.
ModelConfig stage_model(const Config& config, const Origins& origins, const Tokenizer& tokenizer);

SampleOptions stage_samples(const DataConfig& data, const ModelConfig& model);
/// data.cache and data.cache_gb.
CacheOptions cache_options(const DataConfig& data);

/// What config.json says of a stage's model; torch_dtype is train.dtype.
FolderConfig stage_folder_config(const FusionModel& model, const Config& config, const std::vector<int64_t>& stop_ids);

/// config.json, generation_config.json and tokenizer files, which make a folder with weights a model folder.
void write_model_files(const fs::path& folder, const FolderConfig& config, const Tokenizer& tokenizer);

/// Writes the Hugging Face style folder of a model: config, weights in its torch_dtype, tokenizer files. `weights` are those of a checkpoint.
void export_folder(const fs::path& folder, const FusionModel& model, const Weights& weights, const FolderConfig& config, const Tokenizer& tokenizer);

}  // namespace fusion
