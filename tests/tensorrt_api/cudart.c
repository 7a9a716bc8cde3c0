/* A CUDA runtime without a GPU. Device memory is host memory; what a stream is given runs when somebody waits for it, never earlier,
   so that a forgotten wait shows. Its clock moves only with what runs. Wrong handles, addresses and sizes are refused. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_HANDLE = 400, NOT_READY = 600, ILLEGAL_ADDRESS = 700, CAPTURE = 900 };
enum { COPY, CALL, MARK };
enum { STREAM = 0x51, EVENT, GRAPH, EXECUTABLE };

typedef struct Op { int kind, direction; void *to, *from; size_t size; void (*call)(void *); void *argument; double ms; struct Op *next; } Op;
typedef struct { int magic, capturing; Op *first; double at; int reached; } Handle;
typedef struct Block { char *start; size_t size; int pinned; struct Block *next; } Block;

static Block *blocks;
static int live, last, failing_code, devices = 2, driver = 12060;
static char failing[64];
static double now;

static int answer(int code) { if (code) last = code; return code; }

static int planned(const char *name) {
    if (strcmp(name, failing)) return OK;
    failing[0] = 0;
    return answer(failing_code);
}
#define BEGIN do { int planned_code = planned(__func__); if (planned_code) return planned_code; } while (0)

/* --- for the tests --- */
void standin_fail(const char *name, int code) { strncpy(failing, name, sizeof failing - 1); failing_code = code; }
void standin_devices(int count) { devices = count; }
int standin_live(void) { return live; }
int standin_last(void) { return last; }

static int inside(const void *address, size_t size, int pinned) {
    for (Block *b = blocks; b; b = b->next)
        if (b->pinned == pinned && (char *)address >= b->start && (char *)address + size <= b->start + b->size) return 1;
    return 0;
}

static int is(Handle *handle, int magic) { return handle && handle->magic == magic; }

static void append(Handle *to, Op op) {
    Op **end = &to->first, *made = malloc(sizeof *made);
    while (*end) end = &(*end)->next;
    *made = op;
    made->next = NULL;
    *end = made;
}

static void clear(Handle *handle) {
    while (handle->first) { Op *next = handle->first->next; free(handle->first); handle->first = next; }
}

static int run(Op *op) {
    now += op->ms;
    if (op->kind == MARK) { ((Handle *)op->to)->at = now; ((Handle *)op->to)->reached = 1; }
    if (op->kind == CALL) op->call(op->argument);
    if (op->kind == COPY) {
        int up = op->direction == 1;
        if (!inside(op->to, op->size, !up) || !inside(op->from, op->size, up)) return ILLEGAL_ADDRESS;
        memcpy(op->to, op->from, op->size);
    }
    return OK;
}

static int make(void **out, int magic) {
    Handle *made = calloc(1, sizeof *made);
    made->magic = magic;
    *out = made;
    live++;
    return OK;
}

static int destroy(Handle *handle, int magic) {
    if (!is(handle, magic)) return answer(INVALID_HANDLE);
    clear(handle);
    handle->magic = 0; /* kept, so that a second time is seen */
    live--;
    return OK;
}

/* what a kernel would be: runs when the stream comes to it, and takes so many milliseconds */
int standin_enqueue(Handle *stream, void (*call)(void *), void *argument, double ms) {
    if (!is(stream, STREAM)) return INVALID_HANDLE;
    append(stream, (Op){.kind = CALL, .call = call, .argument = argument, .ms = ms});
    return OK;
}

/* --- CUDA's names --- */
const char *cudaGetErrorString(int code) { return code == OUT_OF_MEMORY ? "out of memory" : code == 35 ? "driver is insufficient" : "stand-in error"; }
int cudaGetLastError(void) { int was = last; last = OK; return was; }
int cudaGetDeviceCount(int *count) { BEGIN; *count = devices; return devices ? OK : answer(100); }
int cudaSetDevice(int device) { BEGIN; return device < devices ? OK : answer(INVALID_DEVICE); }
int cudaDriverGetVersion(int *version) { BEGIN; *version = driver; return OK; }
int cudaRuntimeGetVersion(int *version) { BEGIN; *version = 11040; return OK; }
int cudaGetDeviceProperties(char *properties, int device) {
    BEGIN;
    if (device >= devices) return answer(INVALID_DEVICE);
    memset(properties, 0x7f, 1032);
    strcpy(properties, device ? "Stand-in B" : "Stand-in A");
    return OK;
}
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    BEGIN;
    if (device >= devices || (attribute != 75 && attribute != 76)) return answer(INVALID_VALUE);
    *value = attribute == 75 ? 8 : 7;
    return OK;
}
int cudaMemGetInfo(size_t *available, size_t *total) { BEGIN; *available = (size_t)5 << 30; *total = (size_t)8 << 30; return OK; }

static int allocate(void **out, size_t size, int pinned) {
    Block *block = malloc(sizeof *block);
    block->start = malloc(size ? size : 1);
    memset(block->start, 0xa5, size);
    block->size = size;
    block->pinned = pinned;
    block->next = blocks;
    blocks = block;
    *out = block->start;
    live++;
    return OK;
}

static int release(void *address, int pinned) {
    for (Block **b = &blocks; *b; b = &(*b)->next)
        if ((*b)->start == address && (*b)->pinned == pinned) {
            Block *gone = *b;
            *b = gone->next;
            free(gone->start);
            free(gone);
            live--;
            return OK;
        }
    return answer(INVALID_VALUE);
}

int cudaMalloc(void **out, size_t size) { BEGIN; return allocate(out, size, 0); }
int cudaFree(void *address) { BEGIN; return release(address, 0); }
int cudaHostAlloc(void **out, size_t size, unsigned flags) { BEGIN; return flags ? answer(INVALID_VALUE) : allocate(out, size, 1); }
int cudaFreeHost(void *address) { BEGIN; return release(address, 1); }
int cudaMemcpyAsync(void *to, void *from, size_t size, int direction, Handle *stream) {
    BEGIN;
    if (!is(stream, STREAM)) return answer(INVALID_HANDLE);
    if (direction != 1 && direction != 2) return answer(INVALID_VALUE);
    append(stream, (Op){.kind = COPY, .direction = direction, .to = to, .from = from, .size = size, .ms = direction == 1 ? 0.5 : 0.25});
    return OK;
}

int cudaStreamCreate(void **out) { BEGIN; return make(out, STREAM); }
int cudaStreamDestroy(Handle *stream) { BEGIN; return destroy(stream, STREAM); }
int cudaStreamSynchronize(Handle *stream) {
    BEGIN;
    if (!is(stream, STREAM)) return answer(INVALID_HANDLE);
    if (stream->capturing) return answer(CAPTURE);
    int code = OK;
    for (Op *op = stream->first; op && !code; op = op->next) code = run(op);
    clear(stream);
    return answer(code);
}

int cudaEventCreate(void **out) { BEGIN; return make(out, EVENT); }
int cudaEventDestroy(Handle *event) { BEGIN; return destroy(event, EVENT); }
int cudaEventRecord(Handle *event, Handle *stream) {
    BEGIN;
    if (!is(event, EVENT) || !is(stream, STREAM)) return answer(INVALID_HANDLE);
    event->reached = 0;
    append(stream, (Op){.kind = MARK, .to = event});
    return OK;
}
int cudaEventElapsedTime(float *ms, Handle *start, Handle *end) {
    BEGIN;
    if (!is(start, EVENT) || !is(end, EVENT)) return answer(INVALID_HANDLE);
    if (!start->reached || !end->reached) return answer(NOT_READY);
    *ms = (float)(end->at - start->at);
    return OK;
}

/* while it captures, a stream keeps what it is given; the end of the capture takes that away again */
int cudaStreamBeginCapture(Handle *stream, int mode) {
    BEGIN;
    if (!is(stream, STREAM)) return answer(INVALID_HANDLE);
    if (stream->capturing || stream->first || mode != 1) return answer(CAPTURE);
    stream->capturing = 1;
    return OK;
}
int cudaStreamEndCapture(Handle *stream, void **out) {
    BEGIN;
    if (!is(stream, STREAM)) return answer(INVALID_HANDLE);
    if (!stream->capturing) return answer(CAPTURE);
    stream->capturing = 0;
    make(out, GRAPH);
    ((Handle *)*out)->first = stream->first;
    stream->first = NULL;
    return OK;
}
static int instantiate(void **out, Handle *graph) {
    if (!is(graph, GRAPH)) return answer(INVALID_HANDLE);
    make(out, EXECUTABLE);
    for (Op *op = graph->first; op; op = op->next) append(*out, *op);
    return OK;
}
#ifdef CUDA_10
int cudaGraphInstantiate(void **out, Handle *graph, void **node, char *text, size_t size) {
    BEGIN;
    return node || text || size ? answer(INVALID_VALUE) : instantiate(out, graph);
}
#else
int cudaGraphInstantiateWithFlags(void **out, Handle *graph, unsigned long long flags) {
    BEGIN;
    return flags ? answer(INVALID_VALUE) : instantiate(out, graph);
}
#endif
int cudaGraphLaunch(Handle *executable, Handle *stream) {
    BEGIN;
    if (!is(executable, EXECUTABLE) || !is(stream, STREAM)) return answer(INVALID_HANDLE);
    for (Op *op = executable->first; op; op = op->next) append(stream, *op);
    return OK;
}
int cudaGraphDestroy(Handle *graph) { BEGIN; return destroy(graph, GRAPH); }
int cudaGraphExecDestroy(Handle *executable) { BEGIN; return destroy(executable, EXECUTABLE); }
