// Architecture and method keys: decoder, tower, tune, card, loss. One line per key gives name, default, check and help.
// Names are those of the Hugging Face config files where they have one; sections of the specification are cited as "model.md N".
#pragma once

#include "fusion/config/enum.h"

#include <cstdint>
#include <string>
#include <vector>

namespace fusion {

FUSION_ENUM(Profile, released, paper)
FUSION_ENUM(DecoderType, phi3, llama, qwen2)
FUSION_ENUM(RopeScaling, none, longrope, llama3)
FUSION_ENUM(LongropeBy, batch, sample)
FUSION_ENUM(TowerType, siglip, siglip2, clip)
FUSION_ENUM(Activation, gelu_pytorch_tanh, quick_gelu, gelu)
FUSION_ENUM(EarlyMask, released, paper, none)
FUSION_ENUM(PadRows, batch, none)
FUSION_ENUM(Connector, released, paper)
FUSION_ENUM(TextMask, nonzero, length)
FUSION_ENUM(CardAttention, released, paper)
FUSION_ENUM(Pool, max, interpolate)
FUSION_ENUM(Draw, step, micro_step)
FUSION_ENUM(Dsm, both, v2t, t2v, none)
FUSION_ENUM(Average, token, released)
FUSION_ENUM(ClipRows, released, paper)
FUSION_ENUM(Recompute, none, norms, full)

struct DecoderConfig {
  DecoderType type = DecoderType::phi3;
  int64_t hidden_size = 3072, intermediate_size = 8192, num_hidden_layers = 32;
  int64_t num_attention_heads = 32, num_key_value_heads = 32, head_dim = 0;
  int64_t vocab_size = 0;
  double rms_norm_eps = 1e-5, rope_theta = 10000.0;
  int64_t max_position_embeddings = 131072, original_max_position_embeddings = 4096;
  RopeScaling rope_scaling = RopeScaling::none;
  std::vector<double> short_factor, long_factor;
  double factor = 8.0, low_freq_factor = 1.0, high_freq_factor = 4.0;
  LongropeBy longrope_by = LongropeBy::batch;
  bool attention_bias = false, tie_word_embeddings = false;
  double initializer_range = 0.02;
  int64_t pad_token_id = -1;

  int64_t head_size() const { return head_dim > 0 ? head_dim : hidden_size / num_attention_heads; }

  template <class Visitor>
  void visit(Visitor& v) {
    v("type", type, "Decoder family: phi3 has fused qkv and gate-up projections, llama separate ones, qwen2 adds qkv biases.");
    v("hidden_size", hidden_size, "Width D of the decoder.", v.positive());
    v("intermediate_size", intermediate_size, "Width of the decoder MLP.", v.positive());
    v("num_hidden_layers", num_hidden_layers, "Decoder layers.", v.positive());
    v("num_attention_heads", num_attention_heads, "Query heads; must divide hidden_size unless head_dim is set.", v.positive());
    v("num_key_value_heads", num_key_value_heads, "Key and value heads; must divide num_attention_heads.", v.positive());
    v("head_dim", head_dim, "Width of one head; 0 = hidden_size / num_attention_heads.", v.at_least(0));
    v("vocab_size", vocab_size, "Rows of embedding and head; 0 = length of the tokenizer with its added tokens.", v.at_least(0));
    v("rms_norm_eps", rms_norm_eps, "Epsilon of the decoder's RMSNorms.", v.positive());
    v("rope_theta", rope_theta, "Base of the rotary frequencies.", v.positive());
    v("max_position_embeddings", max_position_embeddings, "Longest sequence the decoder is made for, in positions.", v.positive());
    v("original_max_position_embeddings", original_max_position_embeddings, "Length of the original training, where rope scaling switches.",
      v.positive());
    v("rope_scaling", rope_scaling, "Rotary scaling: none, longrope (Phi-3.5) or llama3 (formats.md 1.3).");
    v("short_factor", short_factor, "longrope: head_dim/2 factors up to the original length.");
    v("long_factor", long_factor, "longrope: head_dim/2 factors beyond the original length.");
    v("factor", factor, "llama3 scaling: divisor of the low frequencies.", v.positive());
    v("low_freq_factor", low_freq_factor, "llama3 scaling: lower border of the blended range.", v.positive());
    v("high_freq_factor", high_freq_factor, "llama3 scaling: upper border of the blended range.", v.positive());
    v("longrope_by", longrope_by,
      "What decides between short and long factors: the padded length of the micro-batch (batch) or the sample's own (sample).");
    v("attention_bias", attention_bias, "Biases in the q, k and v projections (qwen2).");
    v("tie_word_embeddings", tie_word_embeddings, "Head shares the embedding's weight.");
    v("initializer_range", initializer_range, "Standard deviation of a random start.", v.positive());
    v("pad_token_id", pad_token_id, "Embedding row without gradient (Phi: 32000); -1 = none.", v.at_least(-1));
  }
};

struct TowerConfig {
  TowerType type = TowerType::siglip2;
  std::string name = "google/siglip2-giant-opt-patch16-384";
  int64_t hidden_size = 1536, intermediate_size = 6144, num_hidden_layers = 40, num_attention_heads = 16;
  int64_t image_size = 384, patch_size = 16, drop_layers = 1;
  Activation hidden_act = Activation::gelu_pytorch_tanh;
  double layer_norm_eps = 1e-6;

  int64_t layers() const { return num_hidden_layers - drop_layers; }  // M, layers kept
  int64_t grid() const { return image_size / patch_size; }            // patches per side
  int64_t patches() const { return grid() * grid(); }                 // N, without class token
  int64_t class_tokens() const { return type == TowerType::clip ? 1 : 0; }

  template <class Visitor>
  void visit(Visitor& v) {
    v("type", type, "Tower family: siglip, siglip2 or clip.");
    v("name", name, "Name written as mm_vision_tower; the official loader picks its class by it.");
    v("hidden_size", hidden_size, "Width C of the tower.", v.positive());
    v("intermediate_size", intermediate_size, "Width of the tower MLP.", v.positive());
    v("num_hidden_layers", num_hidden_layers, "Encoder layers of the pretrained tower, dropped ones included.", v.positive());
    v("num_attention_heads", num_attention_heads, "Heads; must divide hidden_size.", v.positive());
    v("image_size", image_size, "Side R of one tile in pixels.", v.positive());
    v("patch_size", patch_size, "Side of one patch in pixels; pixels that fill no whole patch are unused.", v.positive());
    v("drop_layers", drop_layers, "Last layers that are dropped (released: 1; clip: 0).", v.at_least(0));
    v("hidden_act", hidden_act, "Activation of the tower MLP.");
    v("layer_norm_eps", layer_norm_eps, "Epsilon of the tower's LayerNorms.", v.positive());
  }
};

struct TuneConfig {
  bool enabled = true;
  EarlyMask early_mask = EarlyMask::released;
  int64_t early_layers = 0, connector_split = 0, output_grid = 0, max_text_tokens = 0, select_layer = -2;
  PadRows pad_rows = PadRows::batch;
  Connector connector = Connector::released;
  TextMask text_mask = TextMask::nonzero;

  template <class Visitor>
  void visit(Visitor& v) {
    v("enabled", enabled, "Text-guided encoding: the instruct text goes through the tower with the whole image.");
    v("early_mask", early_mask, "Mask of the early layers (model.md 2.5): released, paper or none.");
    v("early_layers", early_layers, "Layers under the early mask; 0 = half of the kept layers (so400m 13, giant 19, clip 12).", v.at_least(0));
    v("pad_rows", pad_rows, "Padded text rows that exist: up to the batch's longest instruct text (batch) or the sample's own length (none).");
    v("connector", connector, "Features for the projector: released = last state and two means (3C), paper = two means (2C).");
    v("connector_split", connector_split, "States per mean, e of the released connector; 0 = half of the kept layers.", v.at_least(0));
    v("select_layer", select_layer, "clip: hidden state that takes the last state's place in the connector, counted from the end.");
    v("text_mask", text_mask, "Valid instruct tokens: id other than 0 (nonzero) or true length (length).");
    v("max_text_tokens", max_text_tokens, "Instruct tokens kept per sample; 0 = all.", v.at_least(0));
    v("output_grid", output_grid, "Side of the image grid that enters the decoder (FUSION-L: 12); 0 = the tower's own.", v.at_least(0));
  }
};

struct CardConfig {
  bool enabled = true, latents = true;
  CardAttention attention = CardAttention::released;
  Pool pool = Pool::max;
  Draw draw = Draw::step;
  std::vector<int64_t> query_lens = {4, 16, 36, 64, 144};
  int64_t query_len = 0;  // inference and evaluation; 0 = the largest of query_lens
  int64_t window = 3, heads = 16, start = 0, stride = 3, layers = 10;

  template <class Visitor>
  void visit(Visitor& v) {
    v("enabled", enabled, "Interaction layers (context-aware recursive alignment decoding).");
    v("latents", latents, "Latent rows before every question; false needs card.enabled=false.");
    v("attention", attention, "Form of the interaction layer (model.md 5): released or paper (equations 9-11).");
    v("pool", pool, "How latents and context come from the image grid: adaptive max pooling or bilinear interpolation.");
    v("draw", draw, "How often the number of latents is drawn: once per optimizer step or per micro-step.");
    v("query_lens", query_lens, "Numbers of latents to draw from; perfect squares.", v.positive());
    v("query_len", query_len, "Latents per question in evaluation and generation; 0 = the largest of query_lens.", v.at_least(0));
    v("window", window, "Side w of the context window of one latent.", v.positive());
    v("heads", heads, "Heads of the interaction attention; must divide decoder.hidden_size.", v.positive());
    v("start", start, "Decoder layer after which the first interaction layer stands.", v.at_least(0));
    v("stride", stride, "Decoder layers from one interaction layer to the next.", v.positive());
    v("layers", layers, "Number of interaction layers.", v.at_least(0));
  }
};

struct LossConfig {
  Dsm dsm = Dsm::both;
  double dsm_weight = 0.1;
  Average average = Average::token;
  ClipRows clip_rows = ClipRows::released;

  template <class Visitor>
  void visit(Visitor& v) {
    v("dsm", dsm, "Parts of the dual-supervised mapping loss that count: both, v2t, t2v or none.");
    v("dsm_weight", dsm_weight, "Weight (lambda) of the mapping loss.", v.at_least(0.0));
    v("average", average, "token: sums over the whole step divided by global counts; released: mean of the micro-batches' means.");
    v("clip_rows", clip_rows, "clip: rows of the patch embedding in the t2v loss, released (class token first, off by one) or paper.");
  }
};

/// All that makes a model: what config.json holds, plus the method's switches.
struct ModelConfig {
  DecoderConfig decoder;
  TowerConfig tower;
  TuneConfig tune;
  CardConfig card;
  LossConfig loss;

  int64_t early_layers() const { return tune.early_layers > 0 ? tune.early_layers : tower.layers() / 2; }
  int64_t connector_split() const { return tune.connector_split > 0 ? tune.connector_split : tower.layers() / 2; }
  int64_t connector_width() const { return tower.hidden_size * (tune.connector == Connector::released ? 3 : 2); }
  /// Whether a sample's numbers depend on what else its batch holds.
  bool neighbours_matter() const {
    const bool pads = tune.enabled && tune.pad_rows == PadRows::batch;
    return pads || (decoder.rope_scaling == RopeScaling::longrope && decoder.longrope_by == LongropeBy::batch);
  }
};

}  // namespace fusion
