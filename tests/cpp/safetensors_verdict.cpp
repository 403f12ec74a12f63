// SPDX-License-Identifier: BSD-3-Clause
// Reads file names, one a line, and says of each "accepted" or "refused: why": compared with the safetensors
// library by tests/python/test_safetensors_verdicts.py.
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>

#include "src/checkpoint/safetensors.h"

int main() {
  for (std::string path; std::getline(std::cin, path);) {
    std::ifstream file(path, std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(file), {});
    try {
      smet::checkpoint::parse_safetensors(bytes);
      std::cout << "accepted\n";
    } catch (const std::invalid_argument& error) {
      std::cout << "refused: " << error.what() << "\n";
    }
  }
}
