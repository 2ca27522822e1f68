//! The service, by Volo's own generator.

fn main() {
    let generator = volo_build::Builder::thrift().add_service("echo.thrift");
    generator
        .write()
        .expect("echo.thrift describes one service");
}
