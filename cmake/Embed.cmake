# libnla.so for programs that embed the trainer: all layers inside, and outside only the functions that include/nla.h declares.
# Every layer's functions begin with nla_, so the list of exports is taken from the header itself and cannot drift from it.
set(EMBED_HEADER ${CMAKE_SOURCE_DIR}/include/nla.h)
file(GLOB EMBED_SOURCES CONFIGURE_DEPENDS src/run/embed.c)
if(NOT EMBED_SOURCES)
  return()
endif()

set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${EMBED_HEADER})
file(READ ${EMBED_HEADER} text)
string(REGEX REPLACE "/[*]([^*]|[*]+[^*/])*[*]+/" "" text "${text}")
string(REGEX REPLACE "//[^\n]*" "" text "${text}")
string(REGEX MATCHALL "nla_[a-z0-9_]+[ \t]*[(]" calls "${text}")
list(TRANSFORM calls REPLACE "[ \t]*[(]" "")
list(REMOVE_DUPLICATES calls)
list(SORT calls)
list(JOIN calls ";\n\t\t" exports)
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/nla.map CONTENT "{\n\tglobal:\n\t\t@exports@;\n\tlocal:\n\t\t*;\n};\n" @ONLY)

add_library(nla SHARED ${EMBED_SOURCES})
target_include_directories(nla PRIVATE ${CMAKE_SOURCE_DIR}/include)
target_link_libraries(nla PRIVATE nla_run)
target_link_options(nla PRIVATE -Wl,--version-script=${CMAKE_BINARY_DIR}/nla.map)
set_target_properties(nla PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION 0 PUBLIC_HEADER ${EMBED_HEADER}
  LINK_DEPENDS ${CMAKE_BINARY_DIR}/nla.map)
install(TARGETS nla)

# nla.pc finds its prefix from where it lies, so `cmake --install build --prefix ANYWHERE` needs no second configure.
file(RELATIVE_PATH to_prefix /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(cmake/nla.pc.in nla.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/nla.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
