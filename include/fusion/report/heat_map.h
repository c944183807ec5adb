// Heat maps over a picture: one with its colour bar, or many on a sheet.
#pragma once

#include "fusion/image/image.h"

namespace fusion {

/// What the dark end of the colours stands for: 0 (probabilities) or the smallest value (similarities).
enum class HeatScale { from_zero, from_least };

/// Finite values over a square grid that lies on a picture.
struct HeatMap {
  std::string title;
  int64_t side = 0;
  std::vector<float> values;  // [side, side], row-major
  HeatScale scale = HeatScale::from_zero;
  double cover = 1.0;  // part of the picture's width and height that the grid spans, from the top left corner
};

/// The picture in grey under the map's colours, the title above, a colour bar with three values beside it. Letters outside ASCII are drawn as '?'.
Image draw_heat_map(const Image& picture, const HeatMap& map);

/// Small maps in rows, each with its title and range: every one has the whole range of colours to itself.
Image draw_heat_sheet(const Image& picture, const std::string& title, const std::vector<HeatMap>& maps);

}  // namespace fusion
