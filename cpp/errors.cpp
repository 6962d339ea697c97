#include "bae/cpp/errors.hpp"
#include "bae/src/torrents/disk/ffi.rs.h"

#include <libtorrent/error_code.hpp>

#include <new>
#include <system_error>

namespace bae {

namespace {

namespace lt = libtorrent;

FailureKind kind_of_libtorrent(int code) {
    switch (code) {
    case lt::errors::session_is_closing:
    case lt::errors::session_closing:
    case lt::errors::invalid_session_handle:
        return FailureKind::Cancelled;
    case lt::errors::invalid_torrent_handle:
    case lt::errors::destructing_torrent:
    case lt::errors::torrent_aborted:
    case lt::errors::torrent_removed:
        return FailureKind::NotFound;
    case lt::errors::duplicate_torrent:
        return FailureKind::AlreadyExists;
    case lt::errors::no_memory:
    case lt::errors::no_metadata:
        return FailureKind::Unavailable;
    default:
        return FailureKind::Internal;
    }
}

FailureKind kind_of(lt::error_code const& e) {
    namespace errc = boost::system::errc;
    if (e.category() == lt::libtorrent_category())
        return kind_of_libtorrent(e.value());
    if (e == boost::asio::error::operation_aborted)
        return FailureKind::Cancelled;
    bool const is_short = e == errc::not_enough_memory || e == errc::too_many_files_open ||
                          e == errc::too_many_files_open_in_system || e == errc::no_buffer_space ||
                          e == errc::resource_unavailable_try_again;
    return is_short ? FailureKind::Unavailable : FailureKind::Internal;
}

std::string tagged(FailureKind kind, char const* message) {
    return static_cast<char>('0' + static_cast<int>(kind)) + std::string(message);
}

} // namespace

std::string failure_text() {
    try {
        throw;
    } catch (invalid_input const& e) {
        return tagged(FailureKind::InvalidInput, e.what());
    } catch (boost::system::system_error const& e) {
        return tagged(kind_of(e.code()), e.what());
    } catch (std::system_error const& e) {
        // The standard library could not start a thread, or open a file.
        lt::error_code const code(e.code().value(), boost::system::generic_category());
        return tagged(kind_of(code), e.what());
    } catch (std::bad_alloc const&) {
        return tagged(FailureKind::Unavailable, "out of memory");
    } catch (std::exception const& e) {
        return tagged(FailureKind::Internal, e.what());
    } catch (...) {
        return tagged(FailureKind::Internal, "an unknown exception");
    }
}

} // namespace bae
