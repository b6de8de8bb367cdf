# SPDX-License-Identifier: Apache-2.0
# Installation: headers, libraries, find_package(Patinox) and pkg-config patinox.
include(CMakePackageConfigHelpers)

install(TARGETS patinox_static patinox_shared EXPORT PatinoxTargets
    ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(DIRECTORY include/patinox DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
    FILES_MATCHING PATTERN "*.h" PATTERN "*.def")
install(EXPORT PatinoxTargets NAMESPACE Patinox:: DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/Patinox")
configure_package_config_file(cmake/PatinoxConfig.cmake.in "${PROJECT_BINARY_DIR}/PatinoxConfig.cmake"
    INSTALL_DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/Patinox")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/PatinoxConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/PatinoxConfig.cmake" "${PROJECT_BINARY_DIR}/PatinoxConfigVersion.cmake"
    DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/Patinox")

# Paths in the .pc file are relative to the file, so that an installation can be moved.
file(RELATIVE_PATH pc_prefix "/prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/prefix")
string(REGEX REPLACE "/$" "" pc_prefix "${pc_prefix}")
configure_file(cmake/patinox.pc.in "${PROJECT_BINARY_DIR}/patinox.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/patinox.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")

if(TARGET patinox_sqlite_shared)
    install(TARGETS patinox_sqlite_static patinox_sqlite_shared EXPORT PatinoxSqliteTargets
        ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
    install(EXPORT PatinoxSqliteTargets NAMESPACE Patinox:: DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/Patinox")
    configure_file(cmake/patinox-sqlite.pc.in "${PROJECT_BINARY_DIR}/patinox-sqlite.pc" @ONLY)
    install(FILES "${PROJECT_BINARY_DIR}/patinox-sqlite.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
endif()
