// Conversions between cxx, libtorrent and the standard library.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <libtorrent/units.hpp>
#include "rust/cxx.h"

namespace bae {

namespace lt = libtorrent;

// Bytes that Rust copies in one step; rust::Vec has no such operation.
using Bytes = std::vector<std::uint8_t>;

inline std::string text(rust::String const& s) { return {s.data(), s.size()}; }
inline std::string text(rust::Str s) { return {s.data(), s.size()}; }

inline lt::piece_index_t to_piece(std::uint32_t p) {
    return lt::piece_index_t{static_cast<int>(p)};
}
inline std::uint32_t from_piece(lt::piece_index_t p) {
    return static_cast<std::uint32_t>(static_cast<int>(p));
}

} // namespace bae
