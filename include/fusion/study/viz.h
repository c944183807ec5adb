// What a model looks at when it is asked about a picture (Figures 2 and 8 of the paper): attention inside the tower, nearness in the shared space,
// attention in the decoder. Everything is made of what the model's own forward pass computed.
#pragma once

#include "fusion/base/json.h"
#include "fusion/data/mixture.h"
#include "fusion/infer/session.h"
#include "fusion/report/heat_map.h"

namespace fusion {

/// One word of a question and the rows that stand for it.
struct VizWord {
  std::string text;
  std::vector<int64_t> tower;    // places among the text rows of the guided picture; empty when the tower sees no text or the word was cut off
  std::vector<int64_t> decoder;  // rows of the prompt
};

/// Heat maps of one kind, of each layer and each word.
struct VizMaps {
  std::string kind;            // "pixel-words-to-patches", also the name of its folder
  std::string title;           // in words
  std::vector<int64_t> words;  // places in Viz::words; empty: of the row that answers
  int64_t side = 0;
  at::Tensor values;  // fp32 [layers, words or 1, side * side]; one layer where the kind knows none
  HeatScale scale = HeatScale::from_zero;
  double cover = 1.0;  // as in HeatMap
  /// Averages over layers [first, last): early and late in the tower, all in the decoder.
  struct Mean {
    std::string name;
    int64_t first, last;
  };
  std::vector<Mean> means;
};

/// Kinds, heads averaged:
/// pixel-words-to-patches, pixel-patches-to-words: probability with which a word's row looks at each patch inside the tower, and each patch at it;
/// space-text: cosine of the image rows after mm_projector and the word's embedding; space-guided: of the same and the word's own row after tower and
/// mm_projector; space-vision: of the patch embeddings and the word mapped by aux_projector;
/// question-to-image, question-to-latents, answer-to-image, answer-to-latents: probability with which the rows of a word, or the row that predicts
/// the first token of the answer, look at image rows and latents inside the decoder. A word of several tokens is the mean over its rows, as the
/// looked-at one their sum. Kinds that a model does not have (no text guidance, no latents) are left out.
struct Viz {
  std::string question;
  std::vector<VizWord> words;
  std::vector<VizMaps> kinds;
};

/// The words of a text: runs of letters and digits. [begin, end) in bytes.
std::vector<std::pair<int64_t, int64_t>> words_of(std::string_view text);

/// One forward pass over a typed question about a picture's tiles. query_len as inference_query_len() gives it.
/// Throws ExitCode::usage for a question without a word or with a picture mark, ExitCode::data ("over_length: ...") as prompt_sample().
Viz look(const LoadedModel& model, const std::string& question, const std::vector<uint8_t>& tiles, int64_t query_len);

/// Places in `viz.words` of a word, or of several that follow each other, everywhere in the question; case matters. Throws a usage error that lists
/// the words when there is none.
std::vector<int64_t> find_words(const Viz& viz, const std::string& phrase);

/// Mean over those of `words` (places in Viz::words) that the kind has, fp32 [layers, side * side]; undefined when it has none of them. A kind of the
/// row that answers gives that row.
at::Tensor mean_over(const VizMaps& maps, const std::vector<int64_t>& words);

/// Heat maps of the whole question, or of each of `phrases` (find_words), under `folder`: per kind a sheet over the layers, each layer and each mean.
/// values.json holds every number of every word; `facts` go in front of it.
void write_viz(const fs::path& folder, const Viz& viz, const Image& picture, const std::vector<std::string>& phrases, Json facts);

/// How much of the heat over a picture lies on the quarter that the question names ("top left", "lower right").
struct QuarterShare {
  std::string kind, subject, layers;  // subject: "place" (the words that name the quarter), "question" or "answer"; layers: "early", "3"
  int64_t count = 0;                  // questions
  double share = 0, share_error = 0;  // mean and its standard error; an even map has the quarter's area, 0.25
  double control = 0;                 // the same quarters' share when the question about the same picture names one of the other three
  double gain_error = 0;              // standard error of share - control
};

/// Over the questions of a file that name exactly one quarter. Kinds of similarities have no share. Throws ExitCode::data when there is no such
/// question.
std::vector<QuarterShare> measure_quarters(const LoadedModel& model, const Mixture& data, int64_t query_len, int64_t samples);

}  // namespace fusion
