// A model of this bundle through TensorRT, 8.5 to 11: runs the engine that `python3 run.py build` built on this board.
//
//     tensorrt_example BUNDLE [PRECISION]                            replays the golden vectors
//     tensorrt_example BUNDLE PRECISION WIDTH HEIGHT < frame.rgb     classifies raw RGB pixels
//
// An engine belongs to the TensorRT version and the GPU that built it; it is code, so load none that came from elsewhere.

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <memory>

#include "tlx_example.hpp"

#if NV_TENSORRT_MAJOR < 8 || (NV_TENSORRT_MAJOR == 8 && NV_TENSORRT_MINOR < 5)
#error "this example names tensors, which TensorRT can since 8.5; with an older one use: python3 run.py"
#endif

namespace {

void check(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

class Log : public nvinfer1::ILogger {
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kWARNING) std::cerr << "TensorRT: " << message << '\n';
    }
};

// Memory of the GPU.
class Buffer {
public:
    explicit Buffer(std::size_t bytes) { check(cudaMalloc(&data_, bytes)); }
    ~Buffer() { cudaFree(data_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    void* get() const { return data_; }

private:
    void* data_ = nullptr;
};

class Stream {
public:
    Stream() { check(cudaStreamCreate(&stream_)); }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    cudaStream_t get() const { return stream_; }

private:
    cudaStream_t stream_ = nullptr;
};

class Engine {
public:
    static constexpr std::size_t kPixels = std::size_t(tlx::model::size) * std::size_t(tlx::model::size) * 3;
    static constexpr std::size_t kClasses = std::size(tlx::model::classes);

    Engine(const std::string& path, const tlx::model::File& file)
        : file_(file), input_(kPixels * (file.float_input ? sizeof(float) : 1)), output_(kClasses * sizeof(float)) {
        const std::string plan = tlx::read_file(path);  // missing: python3 run.py build
        runtime_.reset(nvinfer1::createInferRuntime(log_));
        engine_.reset(runtime_ ? runtime_->deserializeCudaEngine(plan.data(), plan.size()) : nullptr);
        if (!engine_) throw std::runtime_error(path + " cannot be loaded; build it again on this board: python3 run.py build");
        using nvinfer1::DataType;
        expect(tlx::model::input, nvinfer1::TensorIOMode::kINPUT, file.float_input ? DataType::kFLOAT : DataType::kUINT8);
        expect(tlx::model::output, nvinfer1::TensorIOMode::kOUTPUT, DataType::kFLOAT);
        context_.reset(engine_->createExecutionContext());
        if (!context_) throw std::runtime_error("TensorRT made no execution context; is there too little memory?");
        const nvinfer1::Dims4 shape(1, tlx::model::size, tlx::model::size, 3);
        require(context_->setInputShape(tlx::model::input, shape), "the engine does not take one image of the model's size");
        require(context_->setTensorAddress(tlx::model::input, input_.get()), "the input was refused");
        require(context_->setTensorAddress(tlx::model::output, output_.get()), "the output was refused");
        const nvinfer1::Dims answer = context_->getTensorShape(tlx::model::output);
        require(answer.nbDims == 2 && answer.d[0] == 1 && std::size_t(answer.d[1]) == kClasses, "the engine has another number of classes");
    }

    std::vector<float> run(const std::uint8_t* square) {
        std::vector<float> widened, probabilities(kClasses);
        const void* pixels = square;
        if (file_.float_input) {
            widened.assign(square, square + kPixels);
            pixels = widened.data();
        }
        const std::size_t bytes = file_.float_input ? kPixels * sizeof(float) : kPixels;
        check(cudaMemcpyAsync(input_.get(), pixels, bytes, cudaMemcpyHostToDevice, stream_.get()));
        require(context_->enqueueV3(stream_.get()), "the engine could not be started");
        check(cudaMemcpyAsync(probabilities.data(), output_.get(), kClasses * sizeof(float), cudaMemcpyDeviceToHost, stream_.get()));
        check(cudaStreamSynchronize(stream_.get()));
        return probabilities;
    }

private:
    static void require(bool ok, const char* otherwise) {
        if (!ok) throw std::runtime_error(std::string("TensorRT: ") + otherwise);
    }

    void expect(const char* name, nvinfer1::TensorIOMode mode, nvinfer1::DataType type) const {
        require(engine_->getTensorIOMode(name) == mode, "the engine lacks a tensor of the manifest");
        require(engine_->getTensorDataType(name) == type, "a tensor of the engine is of another type than the manifest says");
    }

    const tlx::model::File& file_;
    Log log_;  // the members below are destroyed in reverse order: context, engine, runtime
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    Buffer input_, output_;
    Stream stream_;
};

// Where `python3 run.py build` keeps engines: outside of bundles, which others may have written.
std::string engines() {
    const auto variable = [](const char* name) { const char* value = std::getenv(name); return std::string(value ? value : ""); };
    if (const std::string given = variable("TLX_ENGINES"); !given.empty()) return given;
    const std::string cache = variable("XDG_CACHE_HOME");
    return (cache.empty() ? variable("HOME") + "/.cache" : cache) + "/tlexport/engines";
}

}  // namespace

int main(int argc, char** argv) {
    return tlx::run_example(argc, argv, [](const std::string&, const tlx::model::File& file) -> tlx::Infer {
        auto engine = std::make_shared<Engine>(engines() + "/" + std::string(file.engine), file);
        return [engine](const std::uint8_t* square) { return engine->run(square); };
    });
}
