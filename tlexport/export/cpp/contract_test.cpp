// Tests the contract of this bundle without any runtime: are the golden images resized as they were at the export?
//
//     contract_test golden BUNDLE                                           exit code 0, or 5 and what is wrong
//     contract_test resize WIDTH HEIGHT < frame.rgb > square.rgb            raw pixels in, the model's pixels out
//     contract_test resize WIDTH HEIGHT SIZE RESIZE bilinear|bicubic        likewise, with another contract
//     contract_test classes                                                 the classes, each followed by a zero byte

#include "tlx_example.hpp"

namespace {

tlx::Interpolation read_interpolation(const std::string& text) {
    if (text == "bilinear") return tlx::Interpolation::bilinear;
    if (text == "bicubic") return tlx::Interpolation::bicubic;
    throw std::invalid_argument(text + " is neither bilinear nor bicubic");
}

int resize(int argc, char** argv) {
    const tlx::Image image = tlx::read_frame(tlx::read_side(argv[2]), tlx::read_side(argv[3]));
    const tlx::Image square = argc == 7 ? tlx::resize_and_crop(image, tlx::read_side(argv[4]), tlx::read_side(argv[5]), read_interpolation(argv[6]))
                                        : tlx::resize_and_crop(image);
    return std::fwrite(square.bytes.data(), 1, square.bytes.size(), stdout) == square.bytes.size() ? tlx::kDone : tlx::kFailed;
}

}  // namespace

int main(int argc, char** argv) try {
    const std::string command = argc > 1 ? argv[1] : "";
    if (command == "golden" && argc == 3) return tlx::report({tlx::check_labels(argv[2]), tlx::check_resize(argv[2])});
    if (command == "resize" && (argc == 4 || argc == 7)) return resize(argc, argv);
    if (command == "classes" && argc == 2) {
        for (std::string_view name : tlx::model::classes) std::cout << name << '\0';
        return tlx::kDone;
    }
    std::cerr << "usage: contract_test golden BUNDLE | resize WIDTH HEIGHT [SIZE RESIZE bilinear|bicubic] | classes" << std::endl;
    return tlx::kUsage;
} catch (const std::invalid_argument& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return tlx::kUsage;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return tlx::kFailed;
}
