// A model of this bundle through ONNX Runtime's C API, on the CPU.
//
//     onnxruntime_example BUNDLE [PRECISION]                            replays the golden vectors
//     onnxruntime_example BUNDLE PRECISION WIDTH HEIGHT < frame.rgb     classifies raw RGB pixels

#include <onnxruntime_c_api.h>

#include <memory>

#include "tlx_example.hpp"

namespace {

const OrtApi& api() {
    static const OrtApi* found = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (found == nullptr)
        throw std::runtime_error(std::string("the library is ONNX Runtime ") + OrtGetApiBase()->GetVersionString() + ", older than the header");
    return *found;
}

void check(OrtStatus* status) {
    if (status == nullptr) return;
    const std::string message = api().GetErrorMessage(status);
    api().ReleaseStatus(status);
    throw std::runtime_error("ONNX Runtime: " + message);
}

// An object of the C API that is released with its owner.
template <typename T>
using Owned = std::shared_ptr<T>;

template <typename T, typename Release, typename Make>
Owned<T> owned(Release release, Make&& make) {
    T* object = nullptr;
    check(make(&object));
    return Owned<T>(object, release);
}

class Session {
public:
    Session(const std::string& path, const tlx::model::File& file)
        : file_(file),
          environment_(owned<OrtEnv>(api().ReleaseEnv, [](OrtEnv** it) { return api().CreateEnv(ORT_LOGGING_LEVEL_WARNING, "tlx", it); })),
          memory_(owned<OrtMemoryInfo>(api().ReleaseMemoryInfo, [](OrtMemoryInfo** it) {
              return api().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, it);
          })) {
        const auto options =
            owned<OrtSessionOptions>(api().ReleaseSessionOptions, [](OrtSessionOptions** it) { return api().CreateSessionOptions(it); });
        // INT8 that is made for TensorRT is computed as it is written
        if (file_.as_written) check(api().AddSessionConfigEntry(options.get(), "session.disable_quant_qdq", "1"));
        const std::basic_string<ORTCHAR_T> name(path.begin(), path.end());  // wide characters on Windows
        session_ = owned<OrtSession>(api().ReleaseSession, [&](OrtSession** it) {
            return api().CreateSession(environment_.get(), name.c_str(), options.get(), it);
        });
    }

    std::vector<float> run(const std::uint8_t* square) const {
        constexpr std::size_t count = std::size_t(tlx::model::size) * std::size_t(tlx::model::size) * 3;
        const std::int64_t shape[] = {1, tlx::model::size, tlx::model::size, 3};
        std::vector<float> widened;  // where the model takes the same whole numbers as float
        void* data = const_cast<std::uint8_t*>(square);
        if (file_.float_input) {
            widened.assign(square, square + count);
            data = widened.data();
        }
        const auto input = owned<OrtValue>(api().ReleaseValue, [&](OrtValue** it) {
            return api().CreateTensorWithDataAsOrtValue(memory_.get(), data, file_.float_input ? count * sizeof(float) : count, shape, 4,
                                                        file_.float_input ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
                                                        it);
        });
        const char* inputs[] = {tlx::model::input};
        const char* outputs[] = {tlx::model::output};
        const OrtValue* values[] = {input.get()};
        const auto output = owned<OrtValue>(api().ReleaseValue, [&](OrtValue** it) {
            return api().Run(session_.get(), nullptr, inputs, values, 1, outputs, 1, it);
        });
        return probabilities(output.get());
    }

private:
    static std::vector<float> probabilities(OrtValue* output) {
        const auto info = owned<OrtTensorTypeAndShapeInfo>(
            api().ReleaseTensorTypeAndShapeInfo, [&](OrtTensorTypeAndShapeInfo** it) { return api().GetTensorTypeAndShape(output, it); });
        ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        std::size_t count = 0;
        check(api().GetTensorElementType(info.get(), &type));
        check(api().GetTensorShapeElementCount(info.get(), &count));
        if (type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) throw std::runtime_error("the model's output is not float");
        float* values = nullptr;
        check(api().GetTensorMutableData(output, reinterpret_cast<void**>(&values)));
        return {values, values + count};
    }

    const tlx::model::File& file_;
    Owned<OrtEnv> environment_;
    Owned<OrtMemoryInfo> memory_;
    Owned<OrtSession> session_;
};

}  // namespace

int main(int argc, char** argv) {
    return tlx::run_example(argc, argv, [](const std::string& bundle, const tlx::model::File& file) -> tlx::Infer {
        auto session = std::make_shared<Session>(bundle + "/" + std::string(file.onnx), file);
        return [session](const std::uint8_t* square) { return session->run(square); };
    });
}
