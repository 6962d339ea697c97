#include "bae/cpp/jobs.hpp"
#include "bae/cpp/buffers.hpp"
#include "bae/src/torrents/disk/ffi.rs.h"

#include <cstring>

namespace bae {

namespace {

lt::storage_error storage_error(DiskError code, lt::operation_t op) {
    lt::storage_error e;
    e.operation = op;
    switch (code) {
    case DiskError::Aborted:
        e.ec = boost::asio::error::operation_aborted;
        break;
    case DiskError::NoSpace:
        e.ec = boost::system::errc::make_error_code(boost::system::errc::no_space_on_device);
        break;
    default:
        e.ec = boost::system::errc::make_error_code(boost::system::errc::io_error);
        break;
    }
    return e;
}

} // namespace

void DiskState::push(std::unique_ptr<completion> done) {
    std::lock_guard<std::mutex> lock(m_mutex);
    m_done.push_back(std::move(done));
    post_drain();
}

void DiskState::wake(std::weak_ptr<lt::disk_observer> peer) {
    std::lock_guard<std::mutex> lock(m_mutex);
    // The io_context may be gone.
    if (m_closed)
        return;
    m_woken.push_back(std::move(peer));
    post_drain();
}

void DiskState::post_drain() {
    if (m_posted)
        return;
    m_posted = true;
    boost::asio::post(m_ios, [self = shared_from_this()] { self->drain(); });
}

void DiskState::drain() {
    std::vector<std::unique_ptr<completion>> done;
    std::vector<std::weak_ptr<lt::disk_observer>> woken;
    {
        std::lock_guard<std::mutex> lock(m_mutex);
        done.swap(m_done);
        woken.swap(m_woken);
        m_posted = false;
    }
    for (auto& completion : done) {
        completion->run();
        completion.reset();
    }
    for (auto const& weak : woken)
        if (auto const peer = weak.lock())
            peer->on_disk();
}

void DiskState::close() {
    std::lock_guard<std::mutex> lock(m_mutex);
    m_closed = true;
    m_woken.clear();
}

// ANCHOR: destructor
template <typename Completion> job<Completion>::~job() {
    if (m_completion)
        fail(DiskError::Aborted);
}
// ANCHOR_END: destructor

template <typename Completion> void job<Completion>::fail(DiskError code) {
    if (!m_completion)
        return;
    m_completion->error = storage_error(code, lt::operation_t::unknown);
    finish();
}

template class job<read_completion>;
template class job<write_completion>;
template class job<hash_completion>;
template class job<check_completion>;
template class job<fence_completion>;

void ReadJob::complete(rust::Box<ReadBuf> bytes) {
    auto* c = pending();
    if (c == nullptr)
        return;
    c->buffer = lend(std::move(bytes), c->length);
    if (!c->buffer)
        return fail(DiskError::Fatal);
    finish();
}

void HashJob::complete(rust::Slice<std::uint8_t const> v1, rust::Slice<std::uint8_t const> v2) {
    auto* c = pending();
    if (c == nullptr)
        return;
    constexpr std::size_t sha1_len = 20;
    constexpr std::size_t sha256_len = 32;
    if (v1.size() == sha1_len)
        std::memcpy(c->v1_digest.data(), v1.data(), sha1_len);
    c->v2_digests.resize(v2.size() / sha256_len);
    for (std::size_t i = 0; i < c->v2_digests.size(); ++i)
        std::memcpy(c->v2_digests[i].data(), v2.data() + i * sha256_len, sha256_len);
    finish();
}

void hash_completion::run() {
    auto const n = std::min(static_cast<std::size_t>(v2.size()), v2_digests.size());
    std::copy_n(v2_digests.begin(), n, v2.begin());
    handler(piece, v1_digest, error);
}

} // namespace bae
