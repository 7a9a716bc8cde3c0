// What both examples do, whichever runtime answers: replay the golden vectors, or classify one frame of raw pixels.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <iostream>

#include "tlx_contract.hpp"

namespace tlx {

// Exit codes, as `python3 run.py` has them.
constexpr int kDone = 0, kFailed = 1, kUsage = 2, kNotVerified = 5;

using Infer = std::function<std::vector<float>(const std::uint8_t* square)>;           // pixels of one square -> probabilities
using Open = std::function<Infer(const std::string& bundle, const model::File& file)>;  // loads one model of the bundle

// Raw RGB bytes, row by row, from standard input: what a camera or `ffmpeg -pix_fmt rgb24 -f rawvideo` gives.
inline Image read_frame(int width, int height) {
    Image image(width, height);
    if (std::fread(image.bytes.data(), 1, image.bytes.size(), stdin) != image.bytes.size() || std::fgetc(stdin) != EOF)
        throw std::invalid_argument("standard input must hold width * height * 3 bytes, no more and no less");
    return image;
}

// A side of an image. Throws for what is no whole number from 1 to 65535.
inline int read_side(const char* text) {
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    if (end == text || *end != '\0' || value < 1 || value > 65535) throw std::invalid_argument(std::string(text) + " is no width or height");
    return int(value);
}

// Prints the checks and the verdict; the exit code.
inline int report(const std::vector<Check>& checks) {
    for (const Check& check : checks)
        std::cout << (check.ok ? "ok     " : "FAILED ") << check.name << (check.detail.empty() ? "" : ": ") << check.detail << '\n';
    const std::string found = verdict(checks);
    std::cout << "verdict: " << found << std::endl;
    return found == "ok" ? kDone : kNotVerified;
}

inline const model::File& find_model(const std::string& precision) {
    for (const model::File& file : model::files)
        if (precision.empty() ? file.chosen : file.precision == precision) return file;
    throw std::invalid_argument("the bundle holds no " + precision + " model");
}

// The main function of an example.
inline int run_example(int argc, char** argv, const Open& open) try {
    if (argc != 2 && argc != 3 && argc != 5) {
        std::cerr << "usage: " << argv[0] << " BUNDLE [PRECISION]                             replays the golden vectors\n"
                  << "       " << argv[0] << " BUNDLE PRECISION WIDTH HEIGHT < frame.rgb   classifies raw RGB pixels\n";
        return kUsage;
    }
    const std::string bundle = argv[1];
    const model::File& file = find_model(argc > 2 ? argv[2] : "");
    if (argc < 5) {
        const Infer infer = open(bundle, file);
        return report({check_labels(bundle), check_resize(bundle), check_outputs(bundle, file, infer)});
    }
    const Image square = resize_and_crop(read_frame(read_side(argv[3]), read_side(argv[4])));
    const std::vector<float> probabilities = open(bundle, file)(square.bytes.data());
    if (probabilities.size() != std::size(model::classes)) throw std::runtime_error("the model answers another number of classes");
    const auto best = std::max_element(probabilities.begin(), probabilities.end());
    std::cout << model::classes[best - probabilities.begin()] << ' ' << *best << std::endl;
    return kDone;
} catch (const std::invalid_argument& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return kUsage;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return kFailed;
}

}  // namespace tlx
