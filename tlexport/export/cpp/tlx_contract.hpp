// The image contract in C++17: resize and centre crop equal to Pillow's to the last bit, and the golden check.
// Only the standard library is used. What it computes is docs/image-contract.md of tlexport, section 4 and 5; tlx_model.hpp, beside
// this file, holds what belongs to this one model.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tlx_model.hpp"

#if defined(__FAST_MATH__)
#error "-ffast-math changes the coefficients of the resize; compile this file without it"
#endif

namespace tlx {

static_assert(FLT_EVAL_METHOD == 0, "double must be computed as double, not in wider registers: on 32-bit x86 add -msse2 -mfpmath=sse");

// Eight-bit RGB, row by row: the value of a channel is at(x, y)[channel].
struct Image {
    int width = 0;
    int height = 0;
    std::vector<std::uint8_t> bytes;

    Image(int w, int h) : width(w), height(h), bytes(std::size_t(w) * std::size_t(h) * 3) {}
    std::uint8_t* at(int x, int y) { return bytes.data() + (std::size_t(y) * std::size_t(width) + std::size_t(x)) * 3; }
    const std::uint8_t* at(int x, int y) const { return const_cast<Image*>(this)->at(x, y); }
};

// ---- resize and crop ------------------------------------------------------------------------------------------------

constexpr int kBits = 22;                                  // fractional bits of a coefficient
constexpr std::int64_t kMaxResized = std::int64_t(1) << 26;  // pixels of a resized image: bounds the memory

// A product that is rounded by itself. Compilers may fuse a product with the sum that follows (FMA), which rounds once, not twice;
// a volatile keeps them from it whatever their options are.
inline double times(double a, double b) {
    volatile double product = a * b;
    return product;
}

// The filter at a distance t, 0 or more.
inline double filter_at(double t, Interpolation interpolation) {
    if (interpolation == Interpolation::bilinear) return t < 1.0 ? 1.0 - t : 0.0;
    if (t < 1.0) return times(times(times(1.5, t) - 2.5, t), t) + 1.0;
    if (t < 2.0) return -0.5 * (times(times(t - 5.0, t) + 8.0, t) - 4.0);
    return 0.0;
}

// The input pixels that one output pixel is made of, and how much of each: fixed point, kBits after the point.
struct Taps {
    int first = 0;
    std::vector<std::int32_t> weights;
};

// Taps of the output pixels [start, stop), where n pixels become m.
inline std::vector<Taps> taps(int n, int m, int start, int stop, Interpolation interpolation) {
    const double scale = double(n) / m;
    const double stretch = std::max(scale, 1.0);  // where it shrinks, the filter is widened
    const double support = times(interpolation == Interpolation::bilinear ? 1.0 : 2.0, stretch);
    const double inverse = 1.0 / stretch;
    std::vector<Taps> result;
    for (int i = start; i < stop; ++i) {
        const double center = times(i + 0.5, scale);
        const int first = std::max(int(center - support + 0.5), 0);
        const int last = std::min(int(center + support + 0.5), n);
        std::vector<double> k;
        double sum = 0.0;
        for (int x = first; x < last; ++x) {
            k.push_back(filter_at(std::fabs(times(x - center + 0.5, inverse)), interpolation));
            sum += k.back();
        }
        Taps pixel{first, {}};
        for (double weight : k) {
            const double whole = times(weight / sum, double(1 << kBits));
            pixel.weights.push_back(std::int32_t(whole < 0.0 ? whole - 0.5 : whole + 0.5));
        }
        result.push_back(std::move(pixel));
    }
    return result;
}

// One output value: the sum over input values that lie `step` bytes apart, rounded.
inline std::uint8_t filtered(const std::uint8_t* values, std::size_t step, const Taps& pixel) {
    std::int32_t sum = 1 << (kBits - 1);
    for (std::int32_t weight : pixel.weights) {
        sum += weight * std::int32_t(*values);
        values += step;
    }
    return std::uint8_t(std::clamp(sum >> kBits, 0, 255));
}

// Where a crop of `size` begins in `length`: a half goes to the even neighbour.
inline int crop_start(int length, int size) {
    const int rest = length - size;
    return (rest + (rest / 2) % 2) / 2;
}

// Everything between decoded pixels and the model: the shorter side becomes `resize`, then the centre is cut out, size x size.
inline Image resize_and_crop(const Image& image, int size = model::size, int resize = model::resize,
                             Interpolation interpolation = model::interpolation) {
    if (image.width < 1 || image.height < 1) throw std::invalid_argument("the image has no pixels");
    if (size < 1 || size > resize) throw std::invalid_argument("size must be from 1 to resize");
    const std::int64_t w = image.width, h = image.height;
    const std::int64_t long_w = w <= h ? resize : resize * w / h, long_h = w <= h ? resize * h / w : resize;
    if (long_w * long_h > kMaxResized) throw std::invalid_argument("the image is too narrow");
    const int new_w = int(long_w), new_h = int(long_h), left = crop_start(new_w, size), top = crop_start(new_h, size);
    const auto across = taps(image.width, new_w, left, left + size, interpolation);
    const auto down = taps(image.height, new_h, top, top + size, interpolation);

    int begin = image.height, end = 0;  // the input rows that the square needs
    for (const Taps& row : down) {
        begin = std::min(begin, row.first);
        end = std::max(end, row.first + int(row.weights.size()));
    }
    Image columns(size, end - begin);  // along x, for these rows
    for (int y = begin; y < end; ++y)
        for (int x = 0; x < size; ++x)
            for (int c = 0; c < 3; ++c)
                columns.at(x, y - begin)[c] = filtered(image.at(across[std::size_t(x)].first, y) + c, 3, across[std::size_t(x)]);
    Image square(size, size);  // then along y
    for (int y = 0; y < size; ++y)
        for (int x = 0; x < size; ++x)
            for (int c = 0; c < 3; ++c)
                square.at(x, y)[c] = filtered(columns.at(x, down[std::size_t(y)].first - begin) + c, std::size_t(size) * 3, down[std::size_t(y)]);
    return square;
}

// ---- golden vectors --------------------------------------------------------------------------------------------------

// An array of a .npy file: row-major, numbers of the type T.
template <typename T>
struct Array {
    std::vector<std::size_t> shape;
    std::vector<T> values;

    std::size_t row() const { return shape.empty() || shape[0] == 0 ? 0 : values.size() / shape[0]; }  // values of one image
};

inline std::string read_file(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) throw std::runtime_error(path + " cannot be read");
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

// Reads a .npy file (numpy.lib.format). `type` is what its header must say: "|u1" for bytes, "<f4" for float.
template <typename T>
Array<T> read_npy(const std::string& path, const std::string& type) {
    const std::string data = read_file(path);
    const auto refuse = [&path](const char* why) { return std::runtime_error(path + " cannot be read as a .npy array: " + why); };
    if (data.size() < 12 || data.compare(0, 6, "\x93NUMPY", 6) != 0) throw refuse("it does not begin as one");
    const auto byte = [&data](std::size_t i) { return std::size_t(std::uint8_t(data[i])); };
    const bool first = data[6] == 1;  // format 1 has two bytes for the header's length, later ones four
    const std::size_t length = byte(8) | byte(9) << 8 | (first ? 0 : byte(10) << 16 | byte(11) << 24), start = first ? 10 : 12;
    if (length > data.size() - start) throw refuse("its header is cut short");
    const std::string header = data.substr(start, length);
    if (header.find("'descr': '" + type + "'") == std::string::npos) throw refuse("its numbers are of another type");
    if (header.find("'fortran_order': False") == std::string::npos) throw refuse("its order is not row by row");
    std::size_t at = header.find("'shape': (");
    if (at == std::string::npos) throw refuse("it has no shape");
    Array<T> array;
    std::size_t count = 1;
    for (at += 10; at < header.size() && header[at] != ')'; ++at) {
        if (header[at] < '0' || header[at] > '9') continue;  // a comma or a space
        std::size_t number = 0;
        for (; at < header.size() && header[at] >= '0' && header[at] <= '9'; ++at) {
            number = number * 10 + std::size_t(header[at] - '0');
            if (number > data.size()) throw refuse("its shape is larger than the file");
        }
        --at;
        if (number != 0 && count > data.size() / number) throw refuse("its shape is larger than the file");
        count *= number;
        array.shape.push_back(number);
    }
    if (data.size() - start - length != count * sizeof(T)) throw refuse("it holds another number of values than its shape says");
    array.values.resize(count);
    if (count) std::memcpy(array.values.data(), data.data() + start + length, count * sizeof(T));
    return array;
}

// One thing that was checked.
struct Check {
    std::string name;
    bool ok;
    std::string detail;
};

// labels.txt of the bundle lists the classes that were compiled in.
inline Check check_labels(const std::string& bundle) {
    std::string expected;
    for (std::string_view name : model::classes) expected.append(name).append("\n");
    const bool ok = read_file(bundle + "/labels.txt") == expected;
    return {"labels", ok, ok ? "" : "labels.txt does not list the classes of tlx_model.hpp: is this the bundle that it came with?"};
}

// The decoded golden images, resized here, give the stored squares to the last bit.
inline Check check_resize(const std::string& bundle) {
    const auto expected = read_npy<std::uint8_t>(bundle + "/" + std::string(model::golden_resized), "|u1");
    const std::size_t images = std::size(model::golden_decoded);
    const std::size_t square = std::size_t(model::size) * std::size_t(model::size) * 3;
    if (expected.shape.size() != 4 || expected.shape[0] != images || expected.row() != square)
        return {"resize", false, std::string(model::golden_resized) + " is of another shape"};
    int worst = 0;
    for (std::size_t i = 0; i < images; ++i) {
        const std::string path = bundle + "/" + std::string(model::golden_decoded[i]);
        auto decoded = read_npy<std::uint8_t>(path, "|u1");
        if (decoded.shape.size() != 3 || decoded.shape[2] != 3 || decoded.values.empty()) return {"resize", false, path + " is of another shape"};
        Image image(int(decoded.shape[1]), int(decoded.shape[0]));
        image.bytes = std::move(decoded.values);
        const Image found = resize_and_crop(image);
        for (std::size_t k = 0; k < square; ++k) worst = std::max(worst, std::abs(int(found.bytes[k]) - int(expected.values[i * square + k])));
    }
    return {"resize", worst == 0, std::to_string(images) + " images, largest difference " + std::to_string(worst) + " of 255"};
}

// What a runtime answers for the golden squares is what was answered at the export, within the model's tolerance.
// `infer` takes the pixels of one square and gives the probabilities.
template <typename Infer>
Check check_outputs(const std::string& bundle, const model::File& file, Infer&& infer) {
    const std::string name = "golden " + std::string(file.precision);
    const auto inputs = read_npy<std::uint8_t>(bundle + "/" + std::string(model::golden_inputs), "|u1");
    const auto expected = read_npy<float>(bundle + "/" + std::string(file.golden_outputs), "<f4");
    const std::size_t classes = std::size(model::classes), square = std::size_t(model::size) * std::size_t(model::size) * 3;
    if (inputs.shape.size() != 4 || inputs.row() != square || expected.shape.size() != 2 || expected.row() != classes ||
        expected.shape[0] != inputs.shape[0])
        return {name, false, "the golden vectors are of another shape"};
    double worst = 0.0;
    for (std::size_t i = 0; i < inputs.shape[0]; ++i) {
        const std::vector<float> found = infer(inputs.values.data() + i * square);
        if (found.size() != classes) return {name, false, "it answers " + std::to_string(found.size()) + " values for each image"};
        for (std::size_t k = 0; k < classes; ++k) {
            const double difference = std::fabs(double(found[k]) - double(expected.values[i * classes + k]));
            worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
        }
    }
    return {name, worst <= file.tolerance,
            std::to_string(inputs.shape[0]) + " images, largest difference in probability " + std::to_string(worst) + " (allowed " +
                std::to_string(file.tolerance) + ")"};
}

// What is wrong, in the words of `python3 run.py verify`.
inline std::string verdict(const std::vector<Check>& checks) {
    std::string found;
    for (const Check& check : checks) {
        if (check.ok) continue;
        const char* word = check.name == "labels" ? "wrong file" : check.name == "resize" ? "wrong resize" : "wrong runtime";
        found += (found.empty() ? "" : ", ") + std::string(word);
    }
    return found.empty() ? "ok" : found;
}

}  // namespace tlx
